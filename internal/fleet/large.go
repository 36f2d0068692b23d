package main

import (
	"testing"

	"github.com/latchkey-dev/latchkey/internal/page"
)

func large(tb testing.TB, binary string) *page.Page { return nil }
