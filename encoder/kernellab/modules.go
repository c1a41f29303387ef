package kernellab

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// wantModules are the modules a guest loads, besides what these depend on.
// crc32c_generic comes first because libcrc32c asks the crypto layer for it by
// name when it starts, which no dependency tells.
var wantModules = []string{
	"crc32c_generic",
	"af_packet", "virtio_pci", "virtio_net", // the wire
	"veth", "dummy", "macvlan", // networks inside the guest
	"sch_ingress", "cls_u32", "act_skbedit", // firewall marks without a firewall
	"sctp", "nf_conntrack", "nf_conntrack_ftp", "nf_conntrack_sip", "nf_nat",
	"ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_sh", "ip_vs_lc", "ip_vs_ftp", "ip_vs_pe_sip",
}

// module is one module of an unpacked kernel.
type module struct {
	name    string
	image   []byte   // uncompressed ELF
	depends []string // from its .modinfo section
}

// collectModules copies wantModules and what they depend on from the module
// tree into dst, uncompressed, as NNN-name.ko in an order for insmod. What is
// built into the kernel is left out.
func collectModules(ctx context.Context, tree, dst string) error {
	builtin, err := builtins(tree)
	if err != nil {
		return err
	}
	files, err := moduleFiles(tree)
	if err != nil {
		return err
	}
	done := map[string]bool{}
	n := 0
	var visit func(name string) error
	visit = func(name string) error {
		if done[name] || builtin[name] {
			return nil
		}
		done[name] = true
		path, ok := files[name]
		if !ok && name == "crc32c_generic" {
			return nil // a library of newer kernels
		}
		if !ok {
			return fmt.Errorf("find module %s: %w", name, fs.ErrNotExist)
		}
		m, err := loadModule(ctx, name, path)
		if err != nil {
			return err
		}
		for _, d := range m.depends {
			if err := visit(d); err != nil {
				return err
			}
		}
		file := filepath.Join(dst, fmt.Sprintf("%03d-%s.ko", n, name))
		n++
		return os.WriteFile(file, m.image, 0o644)
	}
	for _, name := range wantModules {
		if err := visit(name); err != nil {
			return err
		}
	}
	return nil
}

// moduleName turns kernel/fs/some-thing.ko.xz into some_thing.
func moduleName(path string) string {
	base, _, _ := strings.Cut(filepath.Base(path), ".")
	return strings.ReplaceAll(base, "-", "_")
}

// builtins reads the names of the modules that are part of the kernel image.
func builtins(tree string) (map[string]bool, error) {
	list, err := os.ReadFile(filepath.Join(tree, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("read built-in modules: %w", err)
	}
	names := map[string]bool{}
	for line := range strings.Lines(string(list)) {
		names[moduleName(strings.TrimSpace(line))] = true
	}
	return names, nil
}

// moduleFiles maps the name of each module of the tree to its file.
func moduleFiles(tree string) (map[string]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(d.Name(), ".ko") {
			files[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	return files, nil
}

// loadModule reads a module, uncompresses it, and reads what it depends on.
func loadModule(ctx context.Context, name, path string) (*module, error) {
	var image []byte
	switch filepath.Ext(path) {
	case ".ko":
		var err error
		if image, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("read module: %w", err)
		}
	case ".xz":
		out, err := run(ctx, "", "xz", "-dc", path)
		if err != nil {
			return nil, fmt.Errorf("uncompress module: %w", err)
		}
		image = []byte(out)
	default:
		return nil, fmt.Errorf("read module %s: unknown compression", path)
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	info := f.Section(".modinfo")
	if info == nil {
		return nil, fmt.Errorf("read module %s: no .modinfo", name)
	}
	data, err := info.Data()
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	m := &module{name: name, image: image}
	for entry := range strings.SplitSeq(string(data), "\x00") {
		deps, ok := strings.CutPrefix(entry, "depends=")
		if !ok {
			continue
		}
		for d := range strings.SplitSeq(deps, ",") {
			if d != "" {
				m.depends = append(m.depends, strings.ReplaceAll(d, "-", "_"))
			}
		}
	}
	return m, nil
}
