# Print the targets of a Makefile from the comments behind them: `target: ... ## [group] text`.
# The group's name with a + after it: `help` only names the target. Variables: groups, their order;
# mode: `help`, `list` with all texts, or `words` for the names alone.

BEGIN {
	FS = ":.*## "
}

function wrapped(line, text, words, count, lines, i) {
	count = split(text, words, " ")
	for (i = 1; i <= count; i++) {
		if (length(line) + length(words[i]) > 78) {
			lines = lines line "\n"
			line = "   "
		}
		line = line " " words[i]
	}
	return count ? lines line "\n" : ""
}

/^[a-z0-9-]+:.*## / && !seen[$1]++ {
	text = $2
	group = "other"
	is_short = 1
	if (match(text, /^\[[a-z]+\+?\] /)) {
		is_short = substr(text, RLENGTH - 2, 1) == "+"
		group = substr(text, 2, RLENGTH - 3 - is_short)
		text = substr(text, RLENGTH + 1)
	}
	if (mode == "words") {
		print $1
	} else if (mode == "list" || !is_short) {
		explained[group] = explained[group] sprintf(mode == "list" ? "  make %-18s %s\n" : "  make %-9s %s\n", $1, text)
	} else {
		names[group] = names[group] " " $1
	}
}

END {
	count = split(groups " other", order, " ")
	for (i = 1; i <= count; i++) {
		group = order[i]
		title = toupper(substr(group, 1, 1)) substr(group, 2)
		if (group in explained) {
			printf "%s\n%s%s", title, explained[group], wrapped("  also:", names[group])
		} else {
			printf "%s", wrapped(title ":", names[group])
		}
	}
}
