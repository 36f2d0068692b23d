package main

import (
	"fmt"
	"os"
)

// aliases are the names that other documents give to settings of ours, in the
// environment.
var aliases = []struct{ alias, setting string }{
	{"INCIDENTIO_API_KEY", incidentIOKey},
	{"PAGERDUTY_API_KEY", pagerDutyKey},
	{"INDENT_WEBHOOK_SECRET", webhookSecret},
	{"AUTO_APPROVAL_DURATION", "LATCHKEY_AUTO_APPROVAL_DURATION"},
	{"AUTO_APPROVAL_INCIDENTIO_ROLES", "LATCHKEY_INCIDENTIO_ROLES"},
	{"AUTO_APPROVAL_PAGERDUTY_SCHEDULES", "LATCHKEY_PAGERDUTY_SCHEDULES"},
}

// readAliases puts what the aliases hold into this process's environment under our
// names. Where both are there they must agree.
func readAliases() error {
	for _, a := range aliases {
		value, set := os.LookupEnv(a.alias)
		if !set {
			continue
		}
		if ours, both := os.LookupEnv(a.setting); both && ours != value {
			return fmt.Errorf("set %s or its alias %s, not both to different values", a.setting, a.alias)
		}
		if err := os.Setenv(a.setting, value); err != nil {
			return fmt.Errorf("%s: %w", a.alias, err)
		}
	}
	return nil
}

// called is a setting and its alias, as a message names them to who may know only
// the other.
func called(setting string) string {
	for _, a := range aliases {
		if a.setting == setting {
			return setting + " (or " + a.alias + ")"
		}
	}
	return setting
}
