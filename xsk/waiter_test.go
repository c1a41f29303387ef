package xsk

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is two ends of a datagram socket.
func pair(t *testing.T) (near, far int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(fds[0])
		unix.Close(fds[1])
	})
	return fds[0], fds[1]
}

func tell(t *testing.T, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte{1}); err != nil {
		t.Fatal(err)
	}
}

// heard reports whether any of the sockets had something.
func heard(fds ...int) (had bool) {
	var b [8]byte
	for _, fd := range fds {
		n, _ := unix.Read(fd, b[:])
		had = had || n > 0
	}
	return had
}

// waiters are one of each kind, with the sockets that they watch and the far ends.
func waiters(t *testing.T, run func(t *testing.T, w waiter, near, far []int)) {
	for _, c := range []struct {
		name              string
		ownThread, pauses bool
		sockets           int
	}{
		{"poller", false, false, 1},
		{"poller that pauses", false, true, 1},
		{"poller of three", false, true, 3},
		{"thread", true, false, 1},
		{"thread of three", true, true, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			var near, far []int
			for range c.sockets {
				a, b := pair(t)
				near, far = append(near, a), append(far, b)
			}
			w, err := newWaiter(c.ownThread, c.pauses, near...)
			if err != nil {
				t.Fatal(err)
			}
			defer w.close()
			run(t, w, near, far)
		})
	}
}

func TestWaiter(t *testing.T) {
	waiters(t, func(t *testing.T, w waiter, near, far []int) {
		later := time.Now().Add(patience)
		tries := 0
		try := func() bool { tries++; return heard(near...) }
		expect := func(step string, wantOK, wantWoken bool, end time.Time) {
			t.Helper()
			ok, woken, err := w.wait(end, try)
			if ok != wantOK || woken != wantWoken || err != nil {
				t.Fatalf("%s: %v, %v, %v; want %v, %v", step, ok, woken, err, wantOK, wantWoken)
			}
		}
		last := far[len(far)-1]
		tell(t, last)
		expect("something is there", true, false, later)
		expect("nothing comes", false, false, time.Now().Add(time.Millisecond))
		tell(t, far[0])
		expect("the time is over, but something is there", true, false, time.Now())
		tries = 0
		expect("the time is over", false, false, time.Now())
		if tries == 0 {
			t.Fatal("never tried")
		}
		w.wake()
		w.wake()
		expect("woken before", false, true, later)
		tell(t, last)
		expect("not woken any more", true, false, later)
		w.pause()
		tell(t, last)
		expect("something came in the pause", true, false, later)

		began := tries
		go func() {
			// The waiter is parked once it has tried and set its deadline; before
			// that, this is the case above.
			tell(t, last)
		}()
		expect("something comes", true, false, later)
		if tries-began > 3 {
			t.Errorf("%d tries for one event", tries-began)
		}
		go w.wake()
		expect("woken", false, true, later)
	})
}

// TestWaiterMissesNothing has messages and wakes come at any moment of a wait.
func TestWaiterMissesNothing(t *testing.T) {
	waiters(t, func(t *testing.T, w waiter, near, far []int) {
		const rounds = 2000
		var wg sync.WaitGroup
		turn := make(chan int)
		wg.Go(func() {
			for i := range turn {
				if i%3 == 0 {
					w.wake()
				} else {
					tell(t, far[i%len(far)])
				}
			}
		})
		for i := range rounds {
			if i%5 == 0 {
				w.pause()
			}
			turn <- i
			ok, woken, err := w.wait(time.Now().Add(patience), func() bool { return heard(near...) })
			if ok != (i%3 != 0) || woken != (i%3 == 0) || err != nil {
				t.Fatalf("round %d: %v, %v, %v", i, ok, woken, err)
			}
		}
		close(turn)
		wg.Wait()
	})
}

func TestWaiterNeedsSockets(t *testing.T) {
	for _, pauses := range []bool{false, true} {
		if _, err := newWaiter(false, pauses, -1); err == nil {
			t.Errorf("no socket was accepted, pauses %v", pauses)
		}
	}
}

// A waiter that could not watch its sockets again tries once more with the next wait.
func TestWaiterResumes(t *testing.T) {
	near1, far1 := pair(t)
	near2, far2 := pair(t)
	w, err := pollAll([]int{near1, near2})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	w.pause()
	w.sockets = []int{near1, -1}
	if _, _, err := w.wait(time.Now(), func() bool { return false }); err == nil {
		t.Fatal("no error")
	}
	w.sockets = []int{near1, near2}
	for _, far := range []int{far1, far2} {
		tries := 0
		ok, _, err := w.wait(time.Now().Add(patience), func() bool {
			if tries++; tries == 1 {
				tell(t, far) // from now on an event alone tells
				return false
			}
			return heard(near1, near2)
		})
		if !ok || err != nil {
			t.Fatalf("%v, %v", ok, err)
		}
	}
}
