package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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

// unreadable begins what is said of a body that cannot be read at all.
const unreadable = "The body cannot be read as JSON: "

// readJSON reads a body, names as they are written, each once. The error may be
// shown to whoever sent it.
func readJSON(text []byte, v any) error {
	err := strict.Unmarshal(text, v)
	var grammar *jsontext.SyntacticError
	var value *strict.SemanticError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &grammar) && errors.Is(err, jsontext.ErrDuplicateName):
		return fmt.Errorf(unreadable+"the name %q is given twice", Shown(grammar.JSONPointer.LastToken()))
	case errors.As(err, &grammar):
		return errors.New(unreadable + breakAt(text, int(grammar.ByteOffset)))
	case errors.As(err, &value) && len(value.JSONValue) > 0:
		return fmt.Errorf(unreadable+"nothing can be made of the value %s", Shown(string(value.JSONValue)))
	}
	return errors.New(unreadable + breakAt(text, len(text)))
}

// breakAt says what is at a place of a text where it is no JSON any more.
func breakAt(text []byte, at int) string {
	rest := text[min(at, len(text)):]
	if len(bytes.TrimSpace(rest)) == 0 {
		return fmt.Sprintf("it ends too early, at byte offset %d", len(text))
	}
	_, size := utf8.DecodeRune(rest)
	return fmt.Sprintf("%q at byte offset %d is not what can stand there", rest[:size], at)
}
