package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"

	"github.com/latchkey-dev/latchkey"
)

// What the users of Redis may do: whatever connects, and on top of it a sidecar
// reads, while a control plane writes. The commands that scripts run are among
// them.
var (
	connects = []string{"ping", "hello", "auth", "select", "command", "cluster|slots", "cluster|shards", "cluster|nodes", "cluster|info"}
	reads    = []string{"get", "xread"}
	writes   = []string{"get", "set", "del", "xadd", "xread", "xrevrange", "hget", "hset", "hgetall", "hdel", "time", "info", "eval", "evalsha", "script|load"}
)

// SidecarUser is the rule, as ACL SETUSER takes it after the user's name, of a
// user that may read what is a customer's and nothing else.
func SidecarUser(customer, password string) (string, error) {
	if !latchkey.ValidName(customer) { // which has no sign that patterns know
		return "", errors.New("there is no customer of that name")
	}
	return userRule(password, "~"+keyOf(customer, "*"), reads)
}

// ControlPlaneUser is the same of a user that may write what is latchkey's.
func ControlPlaneUser(password string) (string, error) {
	return userRule(password, "~lk1:*", writes)
}

func userRule(password, keys string, may []string) (string, error) {
	if password == "" {
		return "", errors.New("a user of Redis needs a password")
	}
	sum := sha256.Sum256([]byte(password))
	rule := []string{"reset", "on", "#" + hex.EncodeToString(sum[:]), keys, "-@all"}
	for _, c := range slices.Concat(connects, may) {
		rule = append(rule, "+"+c)
	}
	return strings.Join(rule, " "), nil
}
