package main

import (
	"fmt"
	"os"
	"strings"
)

// secretSettings are the environment variables that hold a secret, or an
// address with one in it. Each may come from a file instead, which the variable
// of the same name with _FILE at its end names: containers get secrets as
// files, an image without a shell cannot read them into its environment, and
// whoever may inspect a container sees the environment that it was given.
var secretSettings = []string{"LATCHKEY_DATABASE", "LATCHKEY_REDIS", "LATCHKEY_ROOT_KEY", "LATCHKEY_KEY",
	incidentIOKey, pagerDutyKey, webhookSecret}

// maxSecretFile bounds what is read of such a file.
const maxSecretFile = 64 << 10

// readSecretFiles puts what the files hold into this process's environment,
// without the line's end. It fails where a variable and its file are both
// there, which leaves open what was meant, and where a file is empty.
func readSecretFiles() error {
	for _, name := range secretSettings {
		path := os.Getenv(name + "_FILE")
		if path == "" {
			continue
		}
		if os.Getenv(name) != "" {
			return fmt.Errorf("set %s or %s_FILE, not both", name, name)
		}
		info, err := os.Stat(path) //nolint:gosec // the operator names the file
		if err != nil {
			return fmt.Errorf("%s_FILE: %w", name, err)
		}
		if info.Size() > maxSecretFile {
			return fmt.Errorf("%s_FILE: %s has more than %d bytes", name, path, maxSecretFile)
		}
		text, err := os.ReadFile(path) //nolint:gosec // as above
		if err != nil {
			return fmt.Errorf("%s_FILE: %w", name, err)
		}
		secret := strings.TrimRight(string(text), "\r\n")
		if secret == "" || strings.ContainsAny(secret, "\r\n\x00") {
			return fmt.Errorf("%s_FILE: want one line in %s", name, path)
		}
		if err := os.Setenv(name, secret); err != nil {
			return fmt.Errorf("%s_FILE: %w", name, err)
		}
	}
	return nil
}
