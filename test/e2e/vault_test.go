package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// page is docs/vault.md with the addresses of one test.
type page struct {
	t        *testing.T
	dir      string
	text     string
	replaced *strings.Replacer
}

// blocks returns the blocks of a language, in order.
func (p *page) blocks(language string) []string {
	var out []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(p.text, -1) {
		out = append(out, p.replaced.Replace(m[1]))
	}
	return out
}

// sh runs a block as an operator would, and returns what it says.
func (p *page) sh(block string) string {
	p.t.Helper()
	cmd := exec.Command("bash", "-euc", block)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "PATH="+binaries+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("%v\n%s\n%s", err, block, out)
	}
	return string(out)
}

// From an empty Vault to two control planes, by the commands of docs/vault.md.
func TestVaultPageAndTwoControlPlanes(t *testing.T) {
	redis := servers.Redis(t)
	vault := servers.Vault(t, servers.VaultTLS(servers.LoopbackTLS(t)))
	text, err := os.ReadFile("../../docs/vault.md")
	if err != nil {
		t.Fatal(err)
	}
	ports := servers.FreePorts(t, 2)
	api := []string{"127.0.0.1:" + strconv.Itoa(ports[0]), "127.0.0.1:" + strconv.Itoa(ports[1])}
	p := &page{t: t, dir: t.TempDir(), text: string(text), replaced: strings.NewReplacer(
		"https://127.0.0.1:8200", vault.Address, "127.0.0.1:6379", redis.Addr, "127.0.0.1:7070", api[0],
	)}
	ca, err := os.ReadFile(vault.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	blocks, config := p.blocks("sh"), p.blocks("yaml")
	if len(blocks) != 2 || len(config) != 1 {
		t.Fatalf("the page has %d blocks of commands and %d files", len(blocks), len(config))
	}
	second := strings.NewReplacer(api[0], api[1], "dataDir: data", "dataDir: data-2").Replace(config[0])
	many := "\naccess: {requestsPerSecond: 1000}\n" // the test is one caller
	for name, content := range map[string]string{"vault-ca.pem": string(ca), "root-token": vault.RootToken, "control.yaml": config[0] + many, "control-2.yaml": second + many} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out := p.sh(blocks[0]); !strings.Contains(out, "would write sys/mounts/pki_root") || !strings.Contains(out, "wrote sys/mounts/pki_root") {
		t.Errorf("the bootstrap says\n%s", out)
	}
	_, again, _ := strings.Cut(blocks[0], "--dry-run")
	if out := p.sh(again); out != "nothing changed\n" {
		t.Errorf("once more it says %q", out)
	}
	p.sh(blocks[1])

	start(t, p.dir, "hedgerow", "control", "--config", "control.yaml")
	start(t, p.dir, "hedgerow", "control", "--config", "control-2.yaml")
	for _, address := range api {
		until(t, 30*time.Second, func() error { return ready("http://" + address + "/readyz") })
	}
	if _, err := os.Stat(filepath.Join(p.dir, "data", "signing.key")); err == nil {
		t.Error("there is a signing key on disk")
	}
	clients := []*controlClient{newControlClient(t, p.dir, api[0], "data"), newControlClient(t, p.dir, api[1], "data-2")}
	race(t, clients)
	awayAndBack(t, vault, clients[0])
}

// controlClient calls one control plane.
type controlClient struct {
	t            *testing.T
	address      string
	bearerOfFile string
}

func newControlClient(t *testing.T, dir, address, data string) *controlClient {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(dir, data, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	return &controlClient{t, address, "Bearer " + strings.TrimSpace(string(token))}
}

func (c *controlClient) do(method, path, body string) (int, map[string]any) {
	req, err := http.NewRequestWithContext(c.t.Context(), method, "http://"+c.address+path, bytes.NewReader([]byte(body)))
	if err != nil {
		c.t.Error(err)
		return 0, nil
	}
	req.Header.Set("Authorization", c.bearerOfFile)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Error(err)
		return 0, nil
	}
	defer res.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		c.t.Error(err)
	}
	return res.StatusCode, answer
}

// race has both write as fast as they can: every write is there once.
func race(t *testing.T, clients []*controlClient) {
	t.Helper()
	const each = 200
	var wg sync.WaitGroup
	for at, c := range clients {
		wg.Go(func() {
			for i := range each {
				if status, answer := c.do("PUT", fmt.Sprintf("/v1/services/w%d-%d", at, i), `{}`); status != http.StatusOK {
					t.Errorf("write %d at %d: %d %v", i, at, status, answer)
				}
			}
		})
	}
	wg.Wait()
	// The last write of each, wherever it is read; revisions have no gap and no number twice.
	until(t, 30*time.Second, func() error {
		for _, c := range clients {
			seen := map[float64]bool{}
			for at := range clients {
				for i := range each {
					status, answer := c.do("GET", fmt.Sprintf("/v1/services/w%d-%d", at, i), "")
					revision, _ := answer["revision"].(float64)
					if status != http.StatusOK || revision < 1 || revision > 2*each || seen[revision] {
						return fmt.Errorf("%s: w%d-%d is %d %v", c.address, at, i, status, answer)
					}
					seen[revision] = true
				}
			}
		}
		return nil
	})
}

// awayAndBack seals Vault: reads go on, writes are refused with a reason, and go on after.
func awayAndBack(t *testing.T, vault *servers.VaultServer, c *controlClient) {
	t.Helper()
	vault.Seal()
	status, answer := c.do("PUT", "/v1/services/late", `{}`)
	if text := fmt.Sprint(answer); status != http.StatusServiceUnavailable || !strings.Contains(text, "sealed") {
		t.Errorf("a write while Vault is sealed: %d %s", status, text)
	}
	if status, _ := c.do("GET", "/v1/services/w0-0", ""); status != http.StatusOK {
		t.Errorf("a read while Vault is sealed: %d", status)
	}
	if status, answer := c.do("GET", "/readyz", ""); status != http.StatusOK || !strings.Contains(fmt.Sprint(answer["warnings"]), "sealed") {
		t.Errorf("/readyz while Vault is sealed: %d %v", status, answer)
	}
	vault.Unseal()
	if _, answer := c.do("GET", "/readyz", ""); answer["warnings"] != nil {
		t.Errorf("/readyz after the unsealing: %v", answer)
	}
	until(t, 20*time.Second, func() error {
		if status, answer := c.do("PUT", "/v1/services/late", `{}`); status != http.StatusOK {
			return fmt.Errorf("a write after the unsealing: %d %v", status, answer)
		}
		return nil
	})
}
