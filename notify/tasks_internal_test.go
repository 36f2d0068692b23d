package notify

import "testing"

// Whoever approves waits 30 s for a task. A client that gave up before would have a
// slow receiver told as one that refused.
func TestTaskExecutor_HasNoBoundOfItsOwn(t *testing.T) {
	x := NewTaskExecutor(NewGuard(GuardConfig{}), nil)
	defer x.Close()
	if x.client.Timeout != 0 {
		t.Errorf("it gives up after %v", x.client.Timeout)
	}
}
