package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey/authz"
)

// ConfigCmd shows the configuration.
type ConfigCmd struct {
	Print     ConfigPrintCmd     `cmd:"" help:"Print the settings that 'serve' would run with, as a configuration file. Give it the flags that serve would get."`
	Reference ConfigReferenceCmd `cmd:"" help:"Print the reference of all settings, as Markdown."`
}

// ConfigPrintCmd prints the settings in force.
type ConfigPrintCmd struct {
	Args []string `arg:"" optional:"" passthrough:"" help:"Flags of serve."`
}

// Run implements the command.
func (cmd *ConfigPrintCmd) Run(g *Globals, std streams) error {
	args := append([]string{"serve"}, slices.DeleteFunc(cmd.Args, func(a string) bool { return a == "--" })...)
	if g.ConfigFile != "" {
		args = append([]string{"--config", g.ConfigFile}, args...)
	}
	cli := &CLI{}
	parser, err := newParser(cli, std, func(int) {})
	if err != nil {
		return err
	}
	kctx, err := parser.Parse(args)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if err := cli.Serve.validate(); err != nil {
		return err
	}
	tree := map[string]any{}
	for _, f := range settings(kctx.Selected()) {
		at := tree
		name := settingName(f.Name)
		if group, rest, ok := strings.Cut(name, "."); ok {
			if _, made := tree[group]; !made {
				tree[group] = map[string]any{}
			}
			at, name = tree[group].(map[string]any), rest
		}
		at[name] = settingValue(f)
	}
	if g.JSON {
		return json.NewEncoder(std.out).Encode(tree)
	}
	return yaml.NewEncoder(std.out).Encode(tree)
}

func settingValue(f *kong.Flag) any {
	switch v := f.Target.Interface().(type) {
	case bool, int, float64:
		return v
	case string:
		return withoutPassword(v)
	case []string:
		return strings.Join(v, ",")
	default:
		return fmt.Sprint(v)
	}
}

// passwordIn finds the password of an address, whether or not it is escaped as it
// should be; several hosts may follow.
var passwordIn = regexp.MustCompile(`^([a-z0-9+]+://[^:/?#@]*:).*@`)

// withoutPassword is a setting as it may be shown.
func withoutPassword(v string) string {
	return passwordIn.ReplaceAllString(v, "${1}"+authz.Redacted+"@")
}

// settings are the flags of a command itself, those of every command left out.
func settings(command *kong.Node) []*kong.Flag {
	return command.Flags
}

// ConfigReferenceCmd prints the reference.
type ConfigReferenceCmd struct{}

// Run implements the command.
func (ConfigReferenceCmd) Run(std streams) error { return writeReference(std.out) }

// writeReference writes the table of settings from the flags themselves;
// docs/configuration.md is this text, held to it by a test.
func writeReference(out io.Writer) error {
	parser, err := newParser(&CLI{}, streams{os.Stdin, io.Discard, io.Discard}, func(int) {})
	if err != nil {
		return err
	}
	commands := map[string]*kong.Node{}
	for _, n := range parser.Model.Children {
		commands[n.Name] = n
	}
	fmt.Fprint(out, `# Configuration

Settings of `+"`latchkey serve`"+` and of `+"`latchkey sidecar`"+`. A flag goes before the environment, that before the
file named by `+"`--config`"+` (YAML), that before the default. A name in the file that is
no setting refuses to start; unknown environment variables are ignored.

Two credentials come from the environment alone: `+"`LATCHKEY_ROOT_KEY`"+` sets the root key
of `+"`serve`"+`, and `+"`LATCHKEY_KEY`"+` is what a sidecar and the commands that talk to a server call with.

Secrets may come from files of one line: in place of `+"`"+strings.Join(secretSettings, "`, `")+"`"+`
set the variable of the same name with `+"`_FILE`"+` at its end to the path of the file.

`+aliasText()+`

## serve

`)
	serve, shared := map[string]*kong.Flag{}, []string{}
	fmt.Fprint(out, settingsHead)
	for _, f := range settings(commands["serve"]) {
		serve[f.Name] = f
		writeSetting(out, f)
	}
	fmt.Fprint(out, "\n## sidecar\n\n", settingsHead)
	for _, f := range settings(commands["sidecar"]) {
		if same := serve[f.Name]; same != nil && same.Help == f.Help && same.Default == f.Default {
			shared = append(shared, "`--"+f.Name+"`")
			continue
		}
		writeSetting(out, f)
	}
	fmt.Fprintf(out, "\nIt takes these too, as `serve` does: %s.\n", strings.Join(shared, ", "))
	return nil
}

func aliasText() string {
	var list []string
	for _, a := range aliases {
		list = append(list, "`"+a.alias+"` for `"+a.setting+"`")
	}
	return "Some variables have a second name, that of other documents: " + strings.Join(list, ", ") + "."
}

const settingsHead = "| Flag | Environment | File | Default | Meaning |\n|---|---|---|---|---|\n"

func writeSetting(out io.Writer, f *kong.Flag) {
	value := f.Default
	if value == "" {
		value = " "
	}
	if value == " " && f.IsBool() {
		value = "false"
	}
	help := strings.ReplaceAll(f.Help, f.Enum, strings.ReplaceAll(f.Enum, ",", ", "))
	fmt.Fprintf(out, "| `--%s` | `%s` | `%s` | %s | %s |\n", f.Name, strings.Join(f.Envs, ", "), settingName(f.Name), code(value), help)
}

func code(s string) string {
	if strings.TrimSpace(s) == "" {
		return ""
	}
	return "`" + s + "`"
}
