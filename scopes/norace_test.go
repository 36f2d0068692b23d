//go:build !race

package scopes_test

const raceDetector = false
