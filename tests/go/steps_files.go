package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net/url"
	"strings"
)

var fileSteps = []step{
	{"stream in and out: the tar comes back", anywhere, filesRoundTrip},
	{"stream in: as a user, below the home", onKernel, filesAsUser},
	{"stream in: a tar cut short", anywhere, filesCutShort},
	{"stream out: a missing path", anywhere, filesMissing},
}

// files is a small tree: a text, 1 MB of bytes, a directory.
func files() (map[string]string, []byte) {
	content := map[string]string{"d/text": "some text\n", "d/big": strings.Repeat("0123456789abcdef", 65536)}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	// Writing to memory with sizes that match cannot fail.
	_ = w.WriteHeader(&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755})
	for name, text := range content {
		_ = w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o640, Size: int64(len(text))})
		_, _ = io.WriteString(w, text)
	}
	_ = w.Close()
	return content, archive.Bytes()
}

func (s *suite) streamIn(handle, user, destination string, archive []byte) error {
	query := url.Values{"user": {user}, "destination": {destination}}
	// A plain reader, so that the body goes out in chunks of unknown total, as from a pipe.
	body := io.MultiReader(bytes.NewReader(archive))
	response, err := s.w.request("PUT", path("containers", handle, "files")+"?"+query.Encode(), "application/x-tar", body)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func (s *suite) streamOut(handle, source string) (map[string]string, error) {
	query := url.Values{"user": {""}, "source": {source}}
	response, err := s.w.request("GET", path("containers", handle, "files")+"?"+query.Encode(), "", nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	got := map[string]string{}
	for archive := tar.NewReader(response.Body); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return got, nil
		}
		if err != nil {
			return nil, fmt.Errorf("the tar that came: %w", err)
		}
		if header.Typeflag == tar.TypeReg {
			text, err := io.ReadAll(archive)
			if err != nil {
				return nil, err
			}
			got[strings.TrimPrefix(header.Name, "./")] = string(text)
		}
	}
}

func filesRoundTrip(s *suite) error {
	return s.in(nil, func(handle string) error {
		content, archive := files()
		if err := s.streamIn(handle, "", "/tmp/new/place", archive); err != nil {
			return err
		}
		if err := s.sh(handle, "cat /tmp/new/place/d/text", 0, "some text\n"); err != nil {
			return err
		}
		directory, err1 := s.streamOut(handle, "/tmp/new/place/d")
		contents, err2 := s.streamOut(handle, "/tmp/new/place/d/")
		if err := first(err1, err2); err != nil {
			return err
		}
		for name, text := range content {
			inner := strings.TrimPrefix(name, "d/")
			if directory[name] != text {
				return fmt.Errorf("%s of the directory differs; came: %d files", name, len(directory))
			}
			if contents[inner] != text {
				return fmt.Errorf("%s of its contents differs; came: %d files", inner, len(contents))
			}
		}
		return nil
	})
}

func filesAsUser(s *suite) error {
	return s.in(nil, func(handle string) error {
		_, archive := files()
		return first(s.streamIn(handle, "alice", "sub", archive),
			s.sh(handle, "stat -c %U /home/alice/sub /home/alice/sub/d/text", 0, "alice\nalice\n"),
			s.shAs(handle, "alice", "cat sub/d/text", 0, "some text\n"))
	})
}

func filesCutShort(s *suite) error {
	return s.in(nil, func(handle string) error {
		_, archive := files()
		return refused(s.streamIn(handle, "", "/tmp/cut", archive[:len(archive)/2]), "", "error streaming in")
	})
}

func filesMissing(s *suite) error {
	return s.in(nil, func(handle string) error {
		_, err := s.streamOut(handle, "/no/such/path")
		return refused(err, "", "/no/such/path")
	})
}
