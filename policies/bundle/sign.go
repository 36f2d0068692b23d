package bundle

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	opabundle "github.com/open-policy-agent/opa/v1/bundle"
	opakeys "github.com/open-policy-agent/opa/v1/keys"

	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Files of a bundle with a meaning of their own.
const (
	manifestFile   = ".manifest"
	signaturesFile = ".signatures.json"
)

// VerificationKey is one key that may have signed a bundle.
type VerificationKey struct {
	// ID is what a signature calls the key; "" is whatever it says.
	ID string
	// Algorithm is a JWS algorithm: ES, RS, PS or HS with 256, 384 or 512.
	Algorithm string
	// Key is a PEM public key or certificate; for HS the shared secret itself.
	Key string
	// Scope, when set, must be the signature's scope.
	Scope string
}

// Keys verify signatures as stock OPA does: the key is the one configured by
// id, else the one that the signature names; a signature that names none may
// be any key's. Safe for concurrent use.
type Keys struct {
	config  map[string]*opakeys.Config
	ids     []string
	unnamed []string // ids that stand for keys without one
	keyID   string
	scope   string
}

// NewKeys checks the keys. keyID, when set, is the only one that is used;
// scope, when set, must be every signature's.
func NewKeys(keyID, scope string, keys ...VerificationKey) (*Keys, error) {
	k := &Keys{config: map[string]*opakeys.Config{}, keyID: keyID, scope: scope}
	for i, key := range keys {
		if key.ID == "" {
			key.ID = "#" + strconv.Itoa(i)
			k.unnamed = append(k.unnamed, key.ID)
		}
		switch {
		case k.config[key.ID] != nil:
			return nil, fmt.Errorf("two verification keys are called %q", key.ID)
		case !opakeys.IsSupportedAlgorithm(key.Algorithm):
			return nil, fmt.Errorf("verification key %q: unknown algorithm %q", key.ID, key.Algorithm)
		}
		if err := checkPublic(key); err != nil {
			return nil, fmt.Errorf("verification key %q: %w", key.ID, err)
		}
		k.config[key.ID] = &opakeys.Config{Key: key.Key, Algorithm: key.Algorithm, Scope: key.Scope}
		k.ids = append(k.ids, key.ID)
	}
	if len(keys) == 0 {
		return nil, errors.New("no verification keys")
	}
	if keyID != "" && k.config[keyID] == nil {
		return nil, fmt.Errorf("there is no verification key %q", keyID)
	}
	return k, nil
}

// checkPublic holds a key to its algorithm, so that a mistake shows at start
// and not as bundles that do not verify.
func checkPublic(key VerificationKey) error {
	if strings.HasPrefix(key.Algorithm, "HS") {
		if key.Key == "" {
			return errors.New("an empty secret")
		}
		return nil
	}
	public, err := parsePublic([]byte(key.Key))
	if err != nil {
		return err
	}
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		if want := esAlgorithm(public.Curve); want != key.Algorithm {
			return fmt.Errorf("the key is for %s, not %s", want, key.Algorithm)
		}
	case *rsa.PublicKey:
		if !strings.HasPrefix(key.Algorithm, "RS") && !strings.HasPrefix(key.Algorithm, "PS") {
			return fmt.Errorf("an RSA key is not for %s", key.Algorithm)
		}
		if public.N.BitLen() < 2048 {
			return errors.New("RSA keys have 2048 bits or more")
		}
	default:
		return errors.New("neither an RSA nor an elliptic-curve key")
	}
	return nil
}

func parsePublic(text []byte) (any, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return c.PublicKey, nil
	}
	return nil, fmt.Errorf("a %s is no public key", strings.ToLower(block.Type))
}

// AlgorithmOf names the usual algorithm of a PEM public key: ES by its curve,
// RS256 for RSA.
func AlgorithmOf(publicPEM string) (string, error) {
	public, err := parsePublic([]byte(publicPEM))
	if err != nil {
		return "", err
	}
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		if alg := esAlgorithm(public.Curve); alg != "" {
			return alg, nil
		}
	case *rsa.PublicKey:
		return "RS256", nil
	}
	return "", errors.New("neither an RSA nor an elliptic-curve key that bundles are signed with")
}

func esAlgorithm(curve elliptic.Curve) string {
	switch curve {
	case elliptic.P256():
		return "ES256"
	case elliptic.P384():
		return "ES384"
	case elliptic.P521():
		return "ES512"
	}
	return ""
}

// strongHashes are those of OPA's file digests that a second file cannot be
// found for.
var strongHashes = []string{"SHA-256", "SHA-384", "SHA-512", "SHA-512-256"}

// verify holds every file to the one signature in text.
func (k *Keys) verify(text []byte, files []file) error {
	invalid := func(format string, args ...any) error { return refuse(CodeSignatureInvalid, format, args...) }
	var doc strictjson.Doc
	if err := doc.Parse(string(text)); err != nil {
		return refuse(CodeSignatureInvalid, "%s is no JSON document", signaturesFile).Because(err)
	}
	list := doc.Root().Get("signatures")
	if plugin := doc.Root().Get("plugin"); plugin.Kind() != strictjson.Missing && plugin.Text() != "_default" && plugin.Text() != "" {
		return invalid("the signature is for a plugin")
	}
	if list.Kind() != strictjson.Array || list.Len() != 1 {
		return invalid("%s must hold exactly one signature", signaturesFile)
	}
	token := ""
	for _, v := range list.Elements() {
		token = v.Text()
	}
	signed, err := k.signedFiles(token)
	if err != nil {
		return refuse(CodeSignatureInvalid, "no configured key made the signature").Because(err)
	}
	for name, info := range signed {
		if !slices.Contains(strongHashes, info.Algorithm) {
			return invalid("%q is signed by a weak or unknown digest", shown(name))
		}
	}
	for _, f := range files {
		if f.name == signaturesFile {
			continue
		}
		if _, ok := signed[f.name]; !ok {
			return invalid("%q is not covered by the signature", shown(f.name))
		}
		if err := opabundle.VerifyBundleFile(f.name, *bytes.NewBuffer(f.data), signed); err != nil {
			return refuse(CodeSignatureInvalid, "%q is not the file that was signed", shown(f.name)).Because(err)
		}
	}
	for name := range signed { // VerifyBundleFile took out those that are there
		return invalid("%q was signed and is missing", shown(name))
	}
	return nil
}

// signedFiles checks the token and returns what it signs.
func (k *Keys) signedFiles(token string) (map[string]opabundle.FileInfo, error) {
	signatures := opabundle.SignaturesConfig{Signatures: []string{token}}
	candidates := k.ids
	if k.keyID != "" {
		candidates = []string{k.keyID}
	} else if name := namedKey(token); name != "" {
		candidates = k.unnamed
		if k.config[name] != nil {
			candidates = append([]string{name}, k.unnamed...)
		}
	}
	if len(candidates) == 0 {
		return nil, errors.New("no key of the signature's id is configured")
	}
	var failed []error
	for _, id := range candidates {
		config := opabundle.NewVerificationConfig(k.config, id, k.scope, nil)
		files, err := opabundle.VerifyBundleSignature(signatures, config)
		if err == nil {
			return files, nil
		}
		failed = append(failed, err)
	}
	return nil, errors.Join(failed...)
}

// namedKey returns what a JWT calls its key, in the header or in the deprecated
// claim; "" for nothing.
func namedKey(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	for i, member := range []string{"kid", "keyid"} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return ""
		}
		var names map[string]any
		if json.Unmarshal(text, &names) != nil {
			return ""
		}
		if id, _ := names[member].(string); id != "" {
			return id
		}
	}
	return ""
}

// Signer signs bundles. The signature of equal content is equal, so that equal
// bundles are equal bytes.
type Signer struct {
	key       crypto.Signer
	algorithm string
	hash      crypto.Hash
	keyID     string
	scope     string
}

// NewSigner takes an elliptic-curve or RSA key (RS256). keyID names it in
// signatures; "" is the thumbprint of its public half. scope may be empty.
func NewSigner(key crypto.Signer, keyID, scope string) (*Signer, error) {
	s := &Signer{key: key, keyID: keyID, scope: scope}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		s.algorithm = esAlgorithm(key.Curve)
		s.hash = map[string]crypto.Hash{"ES256": crypto.SHA256, "ES384": crypto.SHA384, "ES512": crypto.SHA512}[s.algorithm]
	case *rsa.PrivateKey:
		s.algorithm, s.hash = "RS256", crypto.SHA256
	}
	if s.hash == 0 {
		return nil, errors.New("bundles are signed with an elliptic-curve or RSA key")
	}
	if s.keyID == "" {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, err
		}
		s.keyID = digest(der)[:16]
	}
	return s, nil
}

// ParseSigner reads a PEM private key.
func ParseSigner(text []byte, keyID, scope string) (*Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the signing key is not PEM")
	}
	var key any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, errors.New("the signing key is no private key")
	}
	if err != nil { // its text could tell of the key
		return nil, errors.New("the signing key does not parse")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the signing key is of a kind that signs nothing")
	}
	return NewSigner(signer, keyID, scope)
}

// Key returns what verifies this signer's bundles, for stock OPA too.
func (s *Signer) Key() (VerificationKey, error) {
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		return VerificationKey{}, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return VerificationKey{ID: s.keyID, Algorithm: s.algorithm, Key: string(text), Scope: s.scope}, nil
}

// sign returns the .signatures.json of files.
func (s *Signer) sign(files []file) (file, error) {
	hasher, err := opabundle.NewSignatureHasher(opabundle.SHA256)
	if err != nil {
		return file{}, err
	}
	claims := struct {
		Files []opabundle.FileInfo `json:"files"`
		KeyID string               `json:"keyid"`
		Scope string               `json:"scope,omitempty"`
	}{Files: []opabundle.FileInfo{}, KeyID: s.keyID, Scope: s.scope}
	for _, f := range files {
		var value any = f.data
		if opabundle.IsStructuredDoc(f.name) {
			value = nil
			d := json.NewDecoder(bytes.NewReader(f.data))
			d.UseNumber()
			if err := d.Decode(&value); err != nil {
				return file{}, err
			}
		}
		sum, err := hasher.HashFile(value)
		if err != nil {
			return file{}, err
		}
		claims.Files = append(claims.Files, opabundle.NewFile(f.name, hex.EncodeToString(sum), string(opabundle.SHA256)))
	}
	header, err := json.Marshal(map[string]string{"alg": s.algorithm, "kid": s.keyID, "typ": "JWT"})
	if err != nil {
		return file{}, err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return file{}, err
	}
	token := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)
	signature, err := s.jws([]byte(token))
	if err != nil {
		return file{}, err
	}
	text, err := json.Marshal(map[string][]string{"signatures": {token + "." + base64.RawURLEncoding.EncodeToString(signature)}})
	return file{signaturesFile, text}, err
}

// jws signs as RFC 7518 has it. Without a source of chance ECDSA takes its
// nonce from the message and the key (RFC 6979), and equal content gets an
// equal signature.
func (s *Signer) jws(message []byte) ([]byte, error) {
	h := s.hash.New()
	h.Write(message)
	signature, err := s.key.Sign(nil, h.Sum(nil), s.hash)
	if err != nil {
		return nil, err
	}
	key, ok := s.key.(*ecdsa.PrivateKey)
	if !ok {
		return signature, nil
	}
	var pair struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(signature, &pair); err != nil {
		return nil, err
	}
	size := (key.Curve.Params().BitSize + 7) / 8
	out := make([]byte, 2*size)
	pair.R.FillBytes(out[:size])
	pair.S.FillBytes(out[size:])
	return out, nil
}
