package enrolment

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// Authority is the Vault that gives the node its certificate. An error of kind Denied or
// Unauthentic says that asking again is pointless.
type Authority interface {
	// Unwrap returns the secret behind a wrapping token, once, if it was made for the login
	// of the node.
	Unwrap(ctx context.Context, token, node string) (secretID string, err error)
	// Login trades the secret for a token, once.
	Login(ctx context.Context, roleID, secretID string) (token string, err error)
	// Sign has a certificate of the node signed, with the token in the file.
	Sign(ctx context.Context, tokenFile string, r identity.Request) (identity.Issued, error)
	// RedisPassword returns the password of the node's user in Redis, with the token in the
	// file; an error of kind NotFound if there is none yet.
	RedisPassword(ctx context.Context, tokenFile, node string) (string, error)
}

// Enroller enrols one host.
type Enroller struct {
	DataDir   string
	Authority Authority
	// Report tells the control plane what became of the token with the proof.
	Report func(ctx context.Context, j *JoinFile, proof string, enrolled bool) error
	// Say is told of each step.
	Say func(format string, args ...any)

	after func(step string) // of tests: called when a step is on disk
}

// Work in progress, below dataDir/enrolment; gone when the host has enrolled.
const (
	proofFile  = "join.sha256" // of the token that what follows belongs to
	askedFile  = "unwrapping"  // the secret was asked for
	secretFile = "secret-id"
	tokenFile  = "vault-token"
	keyFile    = "node.key"
)

// Run enrols the host as the node of j, or does what an earlier run did not come to. What was
// refused because somebody else has used the token is reported, and an error of kind Denied.
func (e *Enroller) Run(ctx context.Context, j *JoinFile) error {
	dir := filepath.Join(e.DataDir, dirName)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return mesh.Errorf("enrolment.Run", dir, mesh.Invalid, "%w", err).WithHint("choose a directory with --data that can be written")
	}
	w := &work{Enroller: e, JoinFile: j, dir: dir, proof: j.proof()}
	unlock, err := w.lock()
	if err != nil {
		return err
	}
	defer unlock()
	record, err := Load(e.DataDir)
	if err != nil {
		e.say("what an earlier enrolment left is replaced: %v", err)
	}
	if record == nil || record.Proof != w.proof {
		if record, err = w.enrol(ctx); err != nil {
			return err
		}
	} else {
		e.say("this host is %s already", j.Node)
	}
	return w.finish(ctx, record)
}

func (e *Enroller) say(format string, args ...any) { e.Say(format, args...) }

// work is one run.
type work struct {
	*Enroller
	*JoinFile
	dir, proof string
}

func (w *work) path(name string) string { return filepath.Join(w.dir, name) }

func (w *work) fail(op string, err error) error {
	return &mesh.Error{Op: "enrolment." + op, Name: "nodes/" + w.Node, Kind: mesh.KindOf(err), Err: err, Hint: mesh.HintOf(err)}
}

// lock has one run at a time. The kernel releases it too, when the process ends in any way.
func (w *work) lock() (unlock func(), err error) {
	f, err := os.OpenFile(w.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		return nil, mesh.Errorf("enrolment.Run", w.dir, mesh.Unavailable, "%w", err).WithHint("does another hedgerow enroll run?")
	}
	return func() { _ = f.Close() }, nil // which unlocks
}

// put writes a step's outcome to disk.
func (w *work) put(name string, content []byte) error {
	if err := writeFile(w.path(name), content); err != nil {
		return mesh.Errorf("enrolment.Save", w.path(name), mesh.Unavailable, "%w", err)
	}
	w.reached(name)
	return nil
}

func (w *work) reached(step string) {
	if w.after != nil {
		w.after(step)
	}
}

// get reads the outcome of a step; ok is false if it was not reached.
func (w *work) get(name string) (content []byte, ok bool, err error) {
	content, err = readSecret(w.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, mesh.Errorf("enrolment.Read", w.path(name), mesh.Invalid, "%w", err)
	}
	return bytes.TrimSpace(content), true, nil
}

// enrol does the steps that were not reached.
func (w *work) enrol(ctx context.Context) (*Record, error) {
	if err := w.begin(); err != nil {
		return nil, err
	}
	if err := w.login(ctx); err != nil {
		return nil, err
	}
	if err := w.certify(ctx); err != nil {
		return nil, err
	}
	if err := w.password(ctx); err != nil {
		return nil, err
	}
	return w.leave()
}

// begin takes away what belongs to another token.
func (w *work) begin() error {
	was, ok, err := w.get(proofFile)
	if err == nil && ok && string(was) == w.proof {
		return nil
	}
	if err := w.clean(); err != nil {
		return err
	}
	return w.put(proofFile, []byte(w.proof))
}

// clean takes away everything that is work in progress.
func (w *work) clean() error {
	for _, name := range []string{secretFile, tokenFile, keyFile, askedFile, proofFile} { // the proof last
		if err := os.Remove(w.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return mesh.Errorf("enrolment.Clean", w.path(name), mesh.Unavailable, "%w", err)
		}
	}
	return syncDir(w.dir)
}

// login gets a token of Vault.
func (w *work) login(ctx context.Context) error {
	if _, ok, err := w.get(tokenFile); ok || err != nil {
		return err
	}
	secret, err := w.secret(ctx)
	if err != nil {
		return err
	}
	token, err := w.Authority.Login(ctx, w.Vault.RoleID, secret)
	if err != nil {
		if kind := mesh.KindOf(err); kind == mesh.Unauthentic || kind == mesh.Denied {
			return mesh.Errorf("enrolment.Login", "nodes/"+w.Node, mesh.Denied, "%w", err).
				WithHint("the secret is spent, perhaps by a run here that was cut short, or has ended: make another token with hedgerow node join " + w.Node)
		}
		return w.fail("Login", err)
	}
	w.say("logged in to Vault")
	return w.put(tokenFile, []byte(token))
}

// secret returns what is behind the token, once it is on disk.
func (w *work) secret(ctx context.Context) (string, error) {
	if secret, ok, err := w.get(secretFile); ok || err != nil {
		return string(secret), err
	}
	_, asked, err := w.get(askedFile)
	if err != nil {
		return "", err
	}
	if err := w.put(askedFile, nil); err != nil {
		return "", err
	}
	secret, err := w.Authority.Unwrap(ctx, w.Token, w.Node)
	if err != nil {
		return "", w.refused(ctx, err, asked)
	}
	w.say("the token is good, and was not used before")
	return secret, w.put(secretFile, []byte(secret))
}

// refused says what it means that a token is refused, to whoever runs this and to the
// control plane. asked tells that an earlier run here may have used it.
func (w *work) refused(ctx context.Context, err error, asked bool) error {
	if kind := mesh.KindOf(err); kind != mesh.Denied && kind != mesh.Unauthentic {
		return w.fail("Unwrap", err)
	}
	if now := time.Now(); !w.ExpireTime.IsZero() && now.After(w.ExpireTime) && !asked {
		return mesh.Errorf("enrolment.Unwrap", "nodes/"+w.Node, mesh.Denied, "the token ended at %s: %w", w.ExpireTime.UTC().Format(time.RFC3339), err).
			WithHint("make another with hedgerow node join " + w.Node)
	}
	told := "the control plane has been told"
	if report := w.Report(ctx, w.JoinFile, w.proof, false); report != nil {
		told = "the control plane could not be told: " + report.Error()
	}
	who := "SOMEBODY ELSE HAS USED THE TOKEN, OR HAS CHANGED THE JOIN FILE, and may be this node now"
	if asked {
		who = "the token was used: by a run here that was cut short, OR BY SOMEBODY ELSE, WHO MAY BE THIS NODE NOW"
	}
	return mesh.Errorf("enrolment.Unwrap", "nodes/"+w.Node, mesh.Denied, "%s. The host is not enrolled; %s (%w)", who, told, err).
		WithHint("unless you know that it was you: quarantine the node, find out who had the join file, and only then make another token with hedgerow node join " + w.Node)
}

// certify gets the node's certificate for a key made here.
func (w *work) certify(ctx context.Context) error {
	key, err := w.key()
	if err != nil {
		return err
	}
	id, err := w.id()
	if err != nil {
		return err
	}
	request, err := identity.RequestFor(key, id)
	if err != nil {
		return err
	}
	issued, err := w.Authority.Sign(ctx, w.path(tokenFile), request)
	if err != nil {
		return w.fail("Sign", err)
	}
	if err := identity.PutNode(filepath.Join(w.DataDir, IdentityDir), id, key, issued); err != nil {
		return err
	}
	w.say("the certificate of %s is good until %s", id, issued.Chain[0].NotAfter.UTC().Format(time.RFC3339))
	w.reached("certificate")
	return nil
}

// password gets the password of the node's user in Redis, if it has one in Vault.
func (w *work) password(ctx context.Context) error {
	if !w.Redis.PasswordInVault {
		return nil
	}
	password, err := w.Authority.RedisPassword(ctx, w.path(tokenFile), w.Node)
	if mesh.KindOf(err) == mesh.NotFound {
		return mesh.Errorf("enrolment.RedisPassword", "nodes/"+w.Node, mesh.Unavailable, "%w", err).
			WithHint("the control plane makes it within seconds, and needs Vault and Redis for that: run this again")
	}
	if err != nil {
		return w.fail("RedisPassword", err)
	}
	return w.put(passwordName, []byte(password+"\n"))
}

// key returns the node's key, once it is on disk.
func (w *work) key() (*ecdsa.PrivateKey, error) {
	text, ok, err := w.get(keyFile)
	if err != nil {
		return nil, err
	}
	if !ok {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, mesh.Errorf("enrolment.Key", "", mesh.Internal, "%w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, mesh.Errorf("enrolment.Key", "", mesh.Internal, "%w", err)
		}
		return key, w.put(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, mesh.Errorf("enrolment.Key", w.path(keyFile), mesh.Invalid, "it is not PEM").WithHint("remove it")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, is := parsed.(*ecdsa.PrivateKey)
	if err != nil || !is {
		return nil, mesh.Errorf("enrolment.Key", w.path(keyFile), mesh.Invalid, "it is a %T: %w", parsed, err).WithHint("remove it")
	}
	return key, nil
}

// leave writes what the processes of the node need. The record comes last: where it is, the
// host has enrolled.
func (w *work) leave() (*Record, error) {
	r := &Record{
		Node: w.Node, Mesh: w.Mesh, TrustDomain: w.TrustDomain, Vault: w.Vault.Addresses, Redis: w.Redis, Proof: w.proof,
		VaultCA: w.Vault.CAPem != "", dir: w.dir,
	}
	for _, file := range []struct{ name, content string }{
		{rootsName, w.ConfigurationRoots}, {vaultName, w.Vault.CAPem}, {redisName, w.Redis.CAPem},
	} {
		if file.content != "" {
			if err := w.put(file.name, []byte(strings.TrimSpace(file.content)+"\n")); err != nil {
				return nil, err
			}
		}
	}
	return r, w.record(r)
}

func (w *work) record(r *Record) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return mesh.Errorf("enrolment.Save", w.path(recordName), mesh.Internal, "%w", err)
	}
	return w.put(recordName, append(raw, '\n'))
}

// finish takes away what is spent and tells the control plane.
func (w *work) finish(ctx context.Context, r *Record) error {
	if err := w.clean(); err != nil {
		return err
	}
	if r.Reported {
		return nil
	}
	if err := w.Report(ctx, w.JoinFile, w.proof, true); err != nil {
		return &mesh.Error{
			Op: "enrolment.Report", Name: "nodes/" + w.Node, Kind: mesh.KindOf(err), Err: fmt.Errorf("the host is enrolled, and the control plane does not know: %w", err),
			Hint: "run it again; if nobody says so within two minutes the control plane raises an alarm",
		}
	}
	r.Reported = true
	return w.record(r)
}
