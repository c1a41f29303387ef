package kernellab

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// initScript is process 1 of the guest.
//
//go:embed init.sh
var initScript string

// resetScript gives the guest a fresh network namespace and with it a fresh IPVS.
//
//go:embed reset.sh
var resetScript string

// runCGI and putCGI are the control channel: run a script, store a file.
//
//go:embed run.cgi
var runCGI string

//go:embed put.cgi
var putCGI string

// guestTools are copied from the host into /bin, with the libraries they load.
// dash becomes /bin/sh.
var guestTools = []string{"busybox", "dash", "ipvsadm", "ip", "tc"}

// recipe is the content of an initramfs, apart from the modules.
type recipe struct {
	files []recipeFile
	id    string
}

// recipeFile is a file of the initramfs: text, or a copy of a host's file.
type recipeFile struct {
	path string
	text string
	host string
	mode uint32
}

// newRecipe finds the host's files that go into the initramfs. Its hash covers
// the scripts and the identity (size, time) of each copied file.
func newRecipe(ctx context.Context) (*recipe, error) {
	r := &recipe{files: []recipeFile{
		{path: "init", text: initScript, mode: 0o755},
		{path: "bin/lab-reset", text: resetScript, mode: 0o755},
		{path: "www/cgi-bin/run", text: runCGI, mode: 0o755},
		{path: "www/cgi-bin/put", text: putCGI, mode: 0o755},
	}}
	var id strings.Builder
	for _, f := range r.files {
		fmt.Fprintf(&id, "%s %s\n", f.path, f.text)
	}
	libs := map[string]bool{}
	for _, name := range guestTools {
		host, err := look(name)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", name, err)
		}
		if host, err = filepath.EvalSymlinks(host); err != nil {
			return nil, fmt.Errorf("find %s: %w", name, err)
		}
		guest := name
		if name == "dash" {
			guest = "sh"
		}
		r.files = append(r.files, recipeFile{path: "bin/" + guest, host: host, mode: 0o755})
		out, err := run(ctx, "", "ldd", host)
		if err != nil { // ldd fails for a static program
			continue
		}
		for word := range strings.FieldsSeq(out) {
			if strings.HasPrefix(word, "/") {
				libs[strings.TrimSuffix(word, ":")] = true
			}
		}
	}
	for lib := range libs {
		r.files = append(r.files, recipeFile{path: strings.TrimPrefix(lib, "/"), host: lib, mode: 0o755})
	}
	slices.SortFunc(r.files, func(a, b recipeFile) int { return strings.Compare(a.path, b.path) })
	for _, f := range r.files {
		if f.host == "" {
			continue
		}
		st, err := os.Stat(f.host)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", f.host, err)
		}
		fmt.Fprintf(&id, "%s %d %d\n", f.path, st.Size(), st.ModTime().UnixNano())
	}
	r.id = digest(id.String())
	return r, nil
}

// hash names the content.
func (r *recipe) hash() string { return r.id }

// build writes the initramfs, with the modules of a directory, to dst.
func (r *recipe) build(modules, dst string) error {
	tmp := dst + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return fmt.Errorf("build initramfs: %w", err)
	}
	defer os.Remove(tmp)
	defer f.Close()
	w := &cpio{w: f, made: map[string]bool{}}
	for _, d := range []string{"proc", "sys", "dev", "tmp", "run", "etc", "sbin", "usr/bin", "usr/sbin", "var"} {
		w.dir(d)
	}
	w.node("dev/console", 5, 1)
	w.node("dev/null", 1, 3)
	for _, rf := range r.files {
		data := []byte(rf.text)
		if rf.host != "" {
			if data, err = os.ReadFile(rf.host); err != nil {
				return fmt.Errorf("build initramfs: %w", err)
			}
		}
		w.file(rf.path, rf.mode, data)
	}
	kos, err := filepath.Glob(filepath.Join(modules, "*.ko"))
	if err != nil {
		return fmt.Errorf("build initramfs: %w", err)
	}
	for _, ko := range kos {
		data, err := os.ReadFile(ko)
		if err != nil {
			return fmt.Errorf("build initramfs: %w", err)
		}
		w.file("modules/"+filepath.Base(ko), 0o644, data)
	}
	w.entry("TRAILER!!!", 0, 0, 0, nil)
	if w.err != nil {
		return fmt.Errorf("build initramfs: %w", w.err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("build initramfs: %w", err)
	}
	return os.Rename(tmp, dst)
}

// cpio writes an archive in the "new ASCII" form that the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst). The first
// error sticks. It stays uncompressed: QEMU puts it into memory faster than an
// emulated processor could uncompress it.
type cpio struct {
	w    io.Writer
	ino  int
	made map[string]bool
	err  error
}

const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioChar = 0o020000
)

func (c *cpio) file(name string, mode uint32, data []byte) {
	c.dir(path.Dir(name))
	c.entry(name, cpioFile|mode, 0, 0, data)
}

func (c *cpio) node(name string, major, minor uint32) {
	c.dir(path.Dir(name))
	c.entry(name, cpioChar|0o600, major, minor, nil)
}

// dir adds a directory and its parents, once.
func (c *cpio) dir(name string) {
	if name == "." || name == "/" || c.made[name] {
		return
	}
	c.dir(path.Dir(name))
	c.made[name] = true
	c.entry(name, cpioDir|0o755, 0, 0, nil)
}

func (c *cpio) entry(name string, mode, major, minor uint32, data []byte) {
	if c.err != nil {
		return
	}
	c.ino++
	// magic ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor
	// rdevminor namesize check
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	buf := append([]byte(head), name...)
	buf = append(buf, 0)
	buf = pad4(buf)
	if _, c.err = c.w.Write(buf); c.err != nil {
		return
	}
	if _, c.err = c.w.Write(data); c.err != nil {
		return
	}
	_, c.err = c.w.Write(make([]byte, -len(data)&3))
}

// pad4 appends zeros up to a multiple of four.
func pad4(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
