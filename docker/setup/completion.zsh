# Completion of make for zsh: eval "$(make completion ARGS=zsh)", after compinit. In a clone of
# Lighterage it offers targets, variables and their values; elsewhere make is completed as before.

_lighterage_make() {
    if [[ ! -f docker/setup/completion.zsh ]]; then
        _make "$@"
        return
    fi
    if [[ $PREFIX == FILE=* ]]; then
        compset -P 'FILE='
        _files
        return
    fi
    local -a found
    found=("${(@f)$(command make --silent --no-print-directory completion-words 2>/dev/null)}")
    [[ -z $PREFIX ]] || found=("${(@)found#+}")
    found=("${(@)found:#+*}")
    if (( ${words[(I)diff]} )); then
        found+=("${(@)${(@M)found:#ENV=?*}#ENV=}")
    fi
    if [[ $PREFIX == *=* ]]; then
        compadd -- "${(@M)found:#*=?*}"
    else
        compadd -- "${(@)found:#*=*}"
        compadd -S '' -- "${(@M)found:#*=}"
    fi
}

compdef _lighterage_make make
