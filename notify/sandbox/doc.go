// Package sandbox runs scripts of customers: Go source, interpreted in a child
// process of this binary that is good for one run.
//
// Floor 1. It knows nothing of tasks; who starts a run says what the script may
// ask for (Host). It is the only room with the interpreter, landlock and seccomp.
//
// The interpreter alone is no wall: who breaks out of it runs machine code in the
// child. So the child gives up, before it reads the script, everything that a
// script does not need: its user, files (landlock), system calls (seccomp: no
// open, no socket, no exec, no fork), memory, processor time. What is left are
// three pipes to the parent, which trusts nothing that comes out of them. No
// secret is in the child but those that the script has asked for and may have.
package sandbox
