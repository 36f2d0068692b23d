// Package deploy tests the files beside it, by which latchkey is deployed: the
// compose file, as compose reads it, and the Helm chart, as helm renders it and
// the API server's own types take it. They are held to the program as well:
// every verb, flag and setting that they name is one that it has. And the example
// of Terraform, in ../examples, is run as it stands.
//
// It is a module of its own, so that what these tests need does not stand in
// the product's go.mod. `make deploy-test` runs them.
package deploy
