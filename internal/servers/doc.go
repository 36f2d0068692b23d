// Package servers starts real servers that tests need: each test process has
// its own, which end with it however it ends.
package servers
