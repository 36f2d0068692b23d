// Command latchkey is the whole product in one binary: the server (serve) and
// the operator's verbs.
//
// It stands on floor 3 and knows everyone: this is where configuration is
// read, rooms are wired together, loops tick, and signals arrive.
package main
