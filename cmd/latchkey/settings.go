package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// fileResolver reads settings of 'serve' or 'sidecar' from the YAML file of
// --config. A flag
// goes before the environment, that before the file, that before the default.
// A name in the file that is no setting refuses to start.
type fileResolver struct {
	path   string
	values map[string]string
}

// configured are the commands with settings in a file.
var configured = []string{"serve", "sidecar"}

// Validate implements kong.Resolver.
func (*fileResolver) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver.
func (r *fileResolver) Resolve(ctx *kong.Context, parent *kong.Path, flag *kong.Flag) (any, error) {
	command := parent.Node()
	if command == nil || command.Type != kong.CommandNode || !slices.Contains(configured, command.Name) {
		return nil, nil
	}
	path := configPath(ctx)
	if path == "" {
		return nil, nil
	}
	if r.path != path {
		values, err := readSettings(path, command)
		if err != nil {
			return nil, err
		}
		r.path, r.values = path, values
	}
	value, ok := r.values[flag.Name]
	if !ok {
		return nil, nil
	}
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	return value, nil
}

// configPath is the value of --config, which kong has parsed but not yet set.
func configPath(ctx *kong.Context) string {
	for _, p := range ctx.Path {
		if p.Flag != nil && p.Flag.Name == "config" {
			path, _ := ctx.FlagValue(p.Flag).(string)
			return path
		}
	}
	return os.Getenv("LATCHKEY_CONFIG")
}

func readSettings(path string, command *kong.Node) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	values := map[string]string{}
	if err := flatten("", tree, values); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	var known []string
	for _, f := range command.Flags {
		known = append(known, f.Name)
	}
	for name := range values {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("configuration %s: there is no setting %q", path, settingName(name))
		}
	}
	return values, nil
}

// flatten turns {compat: {too_many_keys_status: 409}} into the flag name
// compat.too-many-keys-status.
func flatten(prefix string, tree map[string]any, into map[string]string) error {
	for name, value := range tree {
		name = prefix + strings.ReplaceAll(name, "_", "-")
		switch v := value.(type) {
		case map[string]any:
			if err := flatten(name+".", v, into); err != nil {
				return err
			}
		case string, bool, int, float64:
			into[name] = fmt.Sprint(v)
		default:
			return fmt.Errorf("%s: want a text, a number or a truth value", settingName(name))
		}
	}
	return nil
}

// settingName is a flag's name as the file spells it.
func settingName(flag string) string { return strings.ReplaceAll(flag, "-", "_") }
