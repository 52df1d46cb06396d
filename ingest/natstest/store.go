package natstest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Dir is the directory of the server's store.
func (s *Server) Dir() string { return s.opts.StoreDir }

// Save copies the store and returns the copy's directory. With Restore, it
// takes a stream's tail away as a power failure or an old backup does: save,
// publish, stop, restore, start. Stop the server first if the copy shall hold
// all of it for certain.
func (s *Server) Save() string {
	s.saved++
	to := filepath.Join(s.dir, fmt.Sprintf("saved-%d", s.saved))
	if err := copyTree(s.Dir(), to); err != nil {
		s.fail(fmt.Errorf("save the store: %w", err))
	}
	return to
}

// Restore replaces the store of a stopped server by a copy that Save made; the
// copy stays as it is.
func (s *Server) Restore(saved string) {
	if s.running() != nil {
		s.fail(errors.New("restore the store: the server is running; Stop it first"))
		return
	}
	// Moved and not removed: a killed server's last writes may still be under
	// way, and would put something back in between.
	s.saved++
	err := os.Rename(s.Dir(), filepath.Join(s.dir, fmt.Sprintf("dropped-%d", s.saved)))
	if err == nil {
		err = copyTree(saved, s.Dir())
	}
	if err != nil {
		s.fail(fmt.Errorf("restore the store from %s: %w", saved, err))
	}
}

// copyTree passes over files that vanish while it works: a running server makes
// and removes some.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		return copyFile(path, filepath.Join(to, name))
	})
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
