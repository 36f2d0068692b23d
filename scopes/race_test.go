//go:build race

package scopes_test

// Under the race detector sync.Pool, on which regexp relies, drops at random.
const raceDetector = true
