# Completion of make for bash: eval "$(make completion ARGS=bash)". In a clone of Lighterage it
# offers targets, variables and their values; elsewhere make is completed as before.

_lighterage_words() {
    command make --silent --no-print-directory completion-words 2>/dev/null
}

# Complete make elsewhere: as bash-completion does, where it is installed.
_lighterage_elsewhere() {
    local name
    if declare -F _comp_load >/dev/null; then
        _comp_load make
    elif declare -F _completion_loader >/dev/null; then
        _completion_loader make
    fi
    complete -o bashdefault -o default -F _lighterage_make make # instead of what was loaded
    for name in _comp_cmd_make _make; do
        if declare -F "$name" >/dev/null; then
            "$name" "$@"
            return
        fi
    done
}

_lighterage_make() {
    COMPREPLY=()
    if [ ! -f docker/setup/completion.bash ]; then
        _lighterage_elsewhere "$@"
        return
    fi
    local word=${COMP_WORDS[COMP_CWORD]-} name='' prefix='' words reply
    # bash splits NAME=value into three words, unless = is not in COMP_WORDBREAKS.
    if [ "$word" = = ]; then
        name=${COMP_WORDS[COMP_CWORD - 1]}
        word=
    elif [ "$COMP_CWORD" -gt 1 ] && [ "${COMP_WORDS[COMP_CWORD - 1]}" = = ]; then
        name=${COMP_WORDS[COMP_CWORD - 2]}
    elif [[ $word == *=* ]]; then
        name=${word%%=*}
        prefix=$name=
        word=${word#*=}
    fi
    if [ "$name" = FILE ]; then
        word=${word//[\\\"\']/} # as the file is called, not as it was typed
        compopt -o filenames 2>/dev/null
        while IFS= read -r reply; do
            COMPREPLY+=("$prefix$reply")
        done < <(compgen -f -- "$word")
        return
    fi
    words=$(_lighterage_words)
    [ -z "$word$name" ] || words=${words//+/} # prod-run and others only once a letter is there
    if [ -z "$name" ] && [[ " ${COMP_WORDS[*]} " == *' diff '* ]]; then
        words+=$'\n'$(sed -n 's/^ENV=\(.\)/\1/p' <<<"$words")
    fi
    while IFS= read -r reply; do
        case $reply in
            "$name=" | +*) ;;
            "${name:+$name=}$word"*)
                # Values after a name, and a name without its values before it.
                if [ -n "$name" ]; then
                    COMPREPLY+=("$prefix${reply#"$name="}")
                elif [[ $reply != *=?* ]]; then
                    COMPREPLY+=("$reply")
                fi
                ;;
        esac
    done <<<"$words"
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace 2>/dev/null
    fi
}

complete -o bashdefault -o default -F _lighterage_make make
