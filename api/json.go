package api

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf8"

	strict "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// JSON is a value as answers write it. < > and & stay as they are: every answer
// says that it is JSON and that nobody may take it for a page.
func JSON(v any) ([]byte, error) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}

// unescaped is a JSON text without the escapes that it does not need.
func unescaped(text jsontext.Value) jsontext.Value {
	_ = text.Format(jsontext.PreserveRawStrings(false)) // fails on what is no JSON
	return text
}

func writeJSON(w io.Writer, v any) error {
	text, err := JSON(v)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// notJSON begins the error of a body that is not valid JSON.
const notJSON = "The body cannot be read as JSON: "

// readJSON reads a body with exact names, each once. The error may be shown to
// its sender.
func readJSON(text []byte, v any) error {
	err := strict.Unmarshal(text, v)
	var grammar *jsontext.SyntacticError
	var value *strict.SemanticError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &grammar) && errors.Is(err, jsontext.ErrDuplicateName):
		return fmt.Errorf(notJSON+"the name %q is given twice", Excerpt(grammar.JSONPointer.LastToken()))
	case errors.As(err, &grammar):
		return errors.New(notJSON + breakAt(text, int(grammar.ByteOffset)))
	case errors.As(err, &value) && len(value.JSONValue) > 0:
		return fmt.Errorf(notJSON+"nothing can be made of the value %s", Excerpt(string(value.JSONValue)))
	}
	return errors.New(notJSON + breakAt(text, len(text)))
}

// breakAt describes where a text stops being JSON.
func breakAt(text []byte, at int) string {
	rest := text[min(at, len(text)):]
	if len(bytes.TrimSpace(rest)) == 0 {
		return fmt.Sprintf("it ends too early, at byte offset %d", len(text))
	}
	_, size := utf8.DecodeRune(rest)
	return fmt.Sprintf("%q at byte offset %d is not what can stand there", rest[:size], at)
}

// WriteCursor makes the cursor of a position in a list: a page's last row, as a
// plain value that encodes to JSON, with a checksum over it and over what the
// list is of (its name, its tenant, its filters), so that a cursor of another
// list is detected. It is opaque to clients. It names a row, not a number of
// rows, so that new rows move nothing. It grants nothing, for a checksum can be
// forged: whose rows are listed comes from the token alone.
func WriteCursor(position any, list ...string) *string {
	text, err := json.Marshal(position)
	if err != nil {
		panic(err) // positions are plain values
	}
	cursor := base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint32(text, checksum(text, list)))
	return &cursor
}

// ReadCursor reads a cursor of the same list. ok is false when WriteCursor did
// not write it.
func ReadCursor[P any](cursor string, list ...string) (position P, ok bool) {
	text, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	end := len(text) - crc32.Size
	if err != nil || end < 0 || binary.BigEndian.Uint32(text[end:]) != checksum(text[:end], list) {
		return position, false
	}
	return position, strict.Unmarshal(text[:end], &position, strict.RejectUnknownMembers(true)) == nil
}

func checksum(text []byte, list []string) uint32 {
	sum := crc32.ChecksumIEEE(text)
	for _, s := range list {
		sum = crc32.Update(sum, crc32.IEEETable, append([]byte(s), 0))
	}
	return sum
}
