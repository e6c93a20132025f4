package devices

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"sync"
	"time"
)

// window is how many messages of a device of Mosquitto's are under way.
const window = 16

// afterRefusal is how long such a device rests that was refused: the numbers of its messages
// would soon be used up otherwise.
const afterRefusal = 50 * time.Millisecond

// mosquitto has devices publish by mosquitto_pub: MQTT 5, a program each.
func mosquitto(ctx context.Context, f Fleet) (func() error, error) { return Mosquitto(ctx, f, nil) }

// Mosquitto is the devices of mosquitto_pub. refused, if it is not nil, is told each reason code
// of a message that the broker did not take.
func Mosquitto(ctx context.Context, f Fleet, refused func(code int)) (func() error, error) {
	var stops []func() error
	stop := func() error {
		failed := make([]error, len(stops))
		var all sync.WaitGroup
		for i, s := range stops {
			all.Go(func() { failed[i] = s() })
		}
		all.Wait()
		return errors.Join(failed...)
	}
	for device := f.First; device < f.First+f.Count; device++ {
		s, err := mosquittoPub(ctx, f, device, refused)
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		stops = append(stops, s)
	}
	return stop, nil
}

// mosquittoPub starts one. It numbers its messages by the lines that it reads, from 1, and
// with -d says which it has an acknowledgement for.
func mosquittoPub(ctx context.Context, f Fleet, device int, refused func(code int)) (func() error, error) {
	host, port, err := net.SplitHostPort(f.Broker)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "stdbuf", "-oL", "mosquitto_pub", "-h", host, "-p", port, "-V", "5", "-q", "1", "-l", "-d",
		"-c", "-x", "3600", "-i", fmt.Sprintf("mosquitto-%d", device), "-t", Topic(device))
	free := make(chan struct{}, window)
	ended := make(chan struct{})
	var once sync.Once
	stop, err := run(cmd, func(in io.Writer) {
		const most = 60_000 // of 65535, after which they begin anew
		for n := 1; n < most; n++ {
			select {
			case free <- struct{}{}:
			case <-ended:
				return
			}
			if _, err := io.WriteString(in, Text(device, n)+"\n"); err != nil {
				return
			}
		}
	}, func(line string) {
		var client string
		var n, code int
		if _, err := fmt.Sscanf(line, "Client %s received PUBACK (Mid: %d, RC:%d)", &client, &n, &code); err != nil {
			return
		}
		release := func() {
			select {
			case <-free:
			default:
			}
		}
		if code < 128 {
			f.Acked(device, n)
			release()
			return
		}
		if refused != nil {
			refused(code)
		}
		time.AfterFunc(afterRefusal, release)
	})
	if err != nil {
		return nil, err
	}
	return func() error {
		once.Do(func() { close(ended) })
		return stop()
	}, nil
}
