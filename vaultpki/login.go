package vaultpki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const opLogin = "vaultpki.Login"

// login gets a token, over a client that carries none. Who cannot log in is
// Unauthentic, which a Rotator reports but retries: the files may be put right while it
// runs.
func (v *Vault) login(ctx context.Context) (*session, error) {
	var secret *api.Secret
	var err error
	switch {
	case v.access.TokenFile != "":
		return v.tokenLogin()
	case !v.access.Certificate.zero():
		secret, err = v.certLogin(ctx)
	default:
		secret, err = v.appRoleLogin(ctx)
	}
	if err != nil {
		return nil, err
	}
	s, err := v.newSession(secret)
	if err != nil {
		return nil, mesh.Errorf(opLogin, v.name, mesh.Unavailable, "%w", err)
	}
	v.log.Info().Time("token_expires", s.expires).Bool("renewable", s.renewable).Msg("logged in to Vault")
	return s, nil
}

// appRoleLogin trades role_id and secret_id for a token.
func (v *Vault) appRoleLogin(ctx context.Context) (secret *api.Secret, err error) {
	files := v.access.AppRole
	roleID, err := readSecret(files.RoleIDFile)
	if err == nil {
		_, err = readSecret(files.SecretIDFile) // approle reads it again
	}
	if err != nil {
		return nil, mesh.Errorf(opLogin, v.name, mesh.Unauthentic, "%w", err).
			WithHint("enrol the node again, or put role_id and secret_id where appRole.roleIdFile and secretIdFile say")
	}
	auth, err := approle.NewAppRoleAuth(roleID, &approle.SecretID{FromFile: files.SecretIDFile})
	if err != nil {
		return nil, mesh.Errorf(opLogin, v.name, mesh.Unauthentic, "%w", err)
	}
	err = v.measure("login", func() (err error) {
		secret, err = auth.Login(ctx, v.anon)
		return err
	})
	if err != nil {
		return nil, v.wrap(opLogin, err)
	}
	return secret, nil
}

// certLogin has the certificate, whose key the handshake proves, traded for a token. The
// entry is named, or Vault would try them all and take any that fits.
func (v *Vault) certLogin(ctx context.Context) (secret *api.Secret, err error) {
	cert, entry, err := v.certificate()
	if err != nil {
		return nil, mesh.Errorf(opLogin, v.name, mesh.Unauthentic, "%w", err).
			WithHint("enrol the node again, or put its certificate and key where certFile and keyFile say")
	}
	over := v.newHTTP(cert)
	defer over.CloseIdleConnections()
	client, err := v.newAPI(over, "")
	if err != nil {
		return nil, mesh.Errorf(opLogin, v.name, mesh.Internal, "%w", err)
	}
	err = v.measure("login", func() (err error) {
		secret, err = client.Logical().WriteWithContext(ctx, "auth/cert/login", map[string]any{"name": entry})
		return err
	})
	if err != nil {
		return nil, wrapCertLogin(v.name, err)
	}
	return secret, nil
}

// certificate returns what to log in with and the name of its entry.
func (v *Vault) certificate() (*tls.Certificate, string, error) {
	from := v.access.Certificate
	var cert *tls.Certificate
	var err error
	if from.Current != nil {
		cert, err = from.Current()
	} else {
		var read tls.Certificate
		read, err = tls.LoadX509KeyPair(from.CertFile, from.KeyFile)
		cert = &read
	}
	if err != nil {
		return nil, "", err
	}
	if cert == nil || len(cert.Certificate) == 0 {
		return nil, "", errors.New("there is no certificate yet")
	}
	leaf := cert.Leaf
	if leaf == nil {
		if leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, "", err
		}
	}
	if leaf.Subject.CommonName == "" {
		return nil, "", errors.New("the certificate has no common name, so it is not a node's")
	}
	return cert, leaf.Subject.CommonName, nil
}

// tokenLogin reads a token that somebody else got.
func (v *Vault) tokenLogin() (*session, error) {
	token, err := readSecret(v.access.TokenFile)
	if err != nil {
		return nil, mesh.Errorf(opLogin, v.name, mesh.Unauthentic, "%w", err).WithHint("put a token of Vault there, 0600")
	}
	client, err := v.newAPI(v.http, token)
	if err != nil {
		return nil, mesh.Errorf(opLogin, v.name, mesh.Internal, "%w", err)
	}
	return &session{client: client}, nil
}

// readSecret reads a file of one short line.
func readSecret(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, 1000))
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(data))
	if secret == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return secret, nil
}
