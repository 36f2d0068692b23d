// Package container tests the Dockerfile where no container engine runs: it
// carries out the instructions itself, in a copy of the source that
// .dockerignore has thinned, and starts what they made in an empty root
// directory, as the image's user, in a network of its own.
//
// The package has no code but its test. It stands beside the house: nothing
// imports it.
package container
