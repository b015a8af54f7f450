package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// bashCompletion is a format for the cases of the commands and for the words before a
// command.
const bashCompletion = `_stockctl() {
	local words
	case "${COMP_WORDS[1]}" in
%s	*) words="%s" ;;
	esac
	COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _stockctl stockctl
`

func (c *completionCommand) Run(_ context.Context, a *app) error {
	parser, err := kong.New(&commandLine{}, a.kongOptions()...)
	if err != nil {
		return err
	}
	first := flagsOf(parser.Model.Node)
	var cases, fish strings.Builder
	for _, command := range parser.Model.Children {
		words := append(flagsOf(command), flagsOf(parser.Model.Node)...)
		for _, sub := range command.Children {
			words = append(append(words, sub.Name), flagsOf(sub)...)
		}
		first = append(first, command.Name)
		fmt.Fprintf(&cases, "\t%s) words=\"%s\" ;;\n", command.Name, strings.Join(words, " "))
		fmt.Fprintf(&fish, "complete -c stockctl -n '__fish_seen_subcommand_from %s' -a '%s'\n", command.Name, strings.Join(words, " "))
	}
	script := fmt.Sprintf(bashCompletion, cases.String(), strings.Join(first, " "))
	switch c.Shell {
	case "zsh":
		script = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" + script
	case "fish":
		script = fmt.Sprintf("complete -c stockctl -n __fish_use_subcommand -a '%s'\n", strings.Join(first, " ")) + fish.String()
	}
	_, err = io.WriteString(a.stdout, script)
	return err
}

func flagsOf(node *kong.Node) (flags []string) {
	for _, flag := range node.Flags {
		flags = append(flags, "--"+flag.Name)
	}
	return flags
}
