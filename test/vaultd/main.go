// Command vaultd runs a real HashiCorp Vault server for tests: the core of
// Vault, embedded from its published Go module, with the PKI, KV and transit
// engines and the AppRole and certificate logins.
//
// It is for tests only. It unseals itself with a key that it keeps in a file
// beside the data, it does not lock memory, and nothing of the product links
// or ships it (see README.md for the licence). It does not set up any mount:
// that is the business of whoever starts it.
//
// Invariant: it listens on loopback addresses only, and the address file
// exists only after the server behind it has been unsealed.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/vault"
	"github.com/hashicorp/vault/version"
)

// shutdownTimeout bounds how long requests in flight may hold up the end.
const shutdownTimeout = 5 * time.Second

// options are the command line, one field a flag.
type options struct {
	listen        string
	storage       string
	rootTokenFile string
	keysFile      string
	addressFile   string
	tlsCert       string
	tlsKey        string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "vaultd:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. It returns nil after a clean end.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	opts, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	ln, scheme, err := listen(opts)
	if err != nil {
		return err
	}
	defer ln.Close()

	core, err := newCore(opts.storage, stderr)
	if err != nil {
		return err
	}
	if err := open(ctx, core, opts.rootTokenFile, opts.keysFile); err != nil {
		return errors.Join(err, core.ShutdownWait())
	}
	address := scheme + "://" + ln.Addr().String()
	if opts.addressFile != "" {
		if err := writeFile(opts.addressFile, address+"\n"); err != nil {
			return errors.Join(err, core.ShutdownWait())
		}
	}
	fmt.Fprintf(stdout, "vaultd ready address=%s version=%s\n", address, version.GetVersion().Version)
	return serve(ctx, ln, core)
}

// parseOptions reads the command line and refuses what could only fail later.
func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("vaultd", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.listen, "listen", "127.0.0.1:0", "loopback `address` to serve on; port 0 takes a free one")
	fs.StringVar(&o.storage, "storage", "", "data `directory`; empty keeps everything in memory")
	fs.StringVar(&o.rootTokenFile, "root-token-file", "", "`file` for the root token, written at the first start (0600)")
	fs.StringVar(&o.keysFile, "keys-file", "", "`file` for the unseal key, written at the first start (0600), read at later ones")
	fs.StringVar(&o.addressFile, "address-file", "", "`file` that gets the server's URL once it is unsealed")
	fs.StringVar(&o.tlsCert, "tls-cert", "", "PEM `file` with the server's certificate; empty serves plain HTTP")
	fs.StringVar(&o.tlsKey, "tls-key", "", "PEM `file` with its key")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	switch {
	case fs.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q: vaultd takes flags only", fs.Arg(0))
	case (o.tlsCert == "") != (o.tlsKey == ""):
		return o, errors.New("--tls-cert and --tls-key go together: give both or neither")
	case o.storage != "" && o.keysFile == "":
		return o, errors.New("--storage needs --keys-file: without the key the data cannot be opened again")
	}
	return o, nil
}

// listen opens the loopback listener and says which URL scheme it speaks.
// Client certificates are asked for, not demanded, as the cert login needs.
func listen(o options) (net.Listener, string, error) {
	addr, err := netip.ParseAddrPort(o.listen)
	if err != nil {
		return nil, "", fmt.Errorf("--listen %q: want IP:port: %w", o.listen, err)
	}
	if !addr.Addr().IsLoopback() {
		return nil, "", fmt.Errorf("--listen %q: only loopback addresses are served: use 127.0.0.1:0", o.listen)
	}
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return nil, "", fmt.Errorf("listen: %w", err)
	}
	if o.tlsCert == "" {
		return ln, "http", nil
	}
	cert, err := tls.LoadX509KeyPair(o.tlsCert, o.tlsKey)
	if err != nil {
		ln.Close()
		return nil, "", fmt.Errorf("load --tls-cert and --tls-key: %w", err)
	}
	return tls.NewListener(ln, &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequestClientCert,
		NextProtos:   []string{"http/1.1"},
	}), "https", nil
}

// serve answers requests until ctx ends, then seals and closes the core.
func serve(ctx context.Context, ln net.Listener, core *vault.Core) error {
	srv := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core:           core,
			ListenerConfig: &configutil.Listener{Type: "tcp", Address: ln.Addr().String()},
		}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()

	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		end, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		if err = srv.Shutdown(end); err != nil {
			err = errors.Join(err, srv.Close())
		}
		<-failed
	}
	return errors.Join(err, core.ShutdownWait())
}

// writeFile puts content at path with mode 0600 in one step: a reader finds
// nothing or the whole of it.
func writeFile(path, content string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = tmp.WriteString(content)
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}
