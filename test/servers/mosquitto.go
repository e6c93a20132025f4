package servers

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// MosquittoServer is a running mosquitto broker.
type MosquittoServer struct {
	*server
	// Addr is its address, "127.0.0.1:port"; it stays over restarts.
	Addr string

	users       map[string]string // name -> password
	tls         *TLSFiles
	clientCA    string
	persistence bool
	settings    []string
}

// MosquittoOption adjusts a broker before it starts.
type MosquittoOption func(*MosquittoServer)

// MosquittoUsers admits these users (name to password) and nobody else.
// Without it anybody is admitted.
func MosquittoUsers(users map[string]string) MosquittoOption {
	return func(m *MosquittoServer) { m.users = users }
}

// MosquittoTLS serves TLS. With clientCAFile the broker demands a client
// certificate of that CA; pass "" to demand none.
func MosquittoTLS(files TLSFiles, clientCAFile string) MosquittoOption {
	return func(m *MosquittoServer) { m.tls, m.clientCA = &files, clientCAFile }
}

// MosquittoPersistence keeps sessions, queued and retained messages on disk,
// saved after every change. A killed broker may still lose what it acknowledged
// just before: that is Mosquitto's own promise, and no stronger one.
func MosquittoPersistence() MosquittoOption {
	return func(m *MosquittoServer) { m.persistence = true }
}

// MosquittoSetting adds one line to mosquitto.conf.
func MosquittoSetting(name, value string) MosquittoOption {
	return func(m *MosquittoServer) { m.settings = append(m.settings, name+" "+value) }
}

// Mosquitto starts a broker and waits until it accepts connections. It is
// ended with the test.
func Mosquitto(t testing.TB, opts ...MosquittoOption) *MosquittoServer {
	t.Helper()
	m := &MosquittoServer{server: newServer(t, "mosquitto")}
	for _, opt := range opts {
		opt(m)
	}
	m.start = m.command
	m.probe = m.dialProbe
	m.launch()
	m.Addr = m.address()
	return m
}

// Restart ends the broker, if it still runs, and starts it on the same port
// with what MosquittoPersistence kept.
func (m *MosquittoServer) Restart() {
	m.t.Helper()
	m.Stop()
	m.relaunch()
}

func (m *MosquittoServer) command() (string, []string, error) {
	binary, err := findBinary("mosquitto")
	if err != nil {
		return "", nil, err
	}
	lines, err := m.config()
	if err != nil {
		return "", nil, err
	}
	path := filepath.Join(m.dir, "mosquitto.conf")
	err = os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600)
	return binary, []string{"-c", path}, err
}

func (m *MosquittoServer) config() ([]string, error) {
	// Started by root it would become the user mosquitto, who may not read
	// the test's directory: it stays who we are.
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	lines := []string{
		"per_listener_settings false",
		"user " + me.Username,
		fmt.Sprintf("allow_anonymous %t", len(m.users) == 0),
		"log_dest stderr",
	}
	if len(m.users) > 0 {
		path, err := m.writePasswords()
		if err != nil {
			return nil, err
		}
		lines = append(lines, "password_file "+path)
	}
	if m.persistence {
		lines = append(lines, "persistence true", "persistence_location "+m.dir+"/",
			"autosave_on_changes true", "autosave_interval 1")
	}
	listener := []string{fmt.Sprintf("listener %d 127.0.0.1", m.port)}
	if m.tls != nil {
		listener = append(listener, "certfile "+m.tls.CertFile, "keyfile "+m.tls.KeyFile)
		if m.clientCA != "" {
			listener = append(listener, "cafile "+m.clientCA, "require_certificate true")
		}
	}
	return slices.Concat(lines, m.settings, listener), nil
}

// writePasswords writes the password file in the clear and lets Mosquitto's
// own tool hash it in place.
func (m *MosquittoServer) writePasswords() (string, error) {
	binary, err := findBinary("mosquitto_passwd")
	if err != nil {
		return "", err
	}
	var clear strings.Builder
	for name, password := range m.users {
		fmt.Fprintf(&clear, "%s:%s\n", name, password)
	}
	path := filepath.Join(m.dir, "passwords")
	if err := os.WriteFile(path, []byte(clear.String()), 0o600); err != nil {
		return "", err
	}
	if out, err := exec.Command(binary, "-U", path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("mosquitto_passwd: %w: %s", err, out)
	}
	return path, nil
}
