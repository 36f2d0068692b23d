//go:build !linux

package sandbox

import (
	"errors"
	"time"
)

func confine(time.Duration) error {
	return errors.New("scripts run on Linux only: nothing else has landlock and seccomp")
}
