package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print version, commit and toolchain",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				info = &debug.BuildInfo{GoVersion: runtime.Version()}
			}
			return printVersion(cmd.OutOrStdout(), info)
		},
	}
}

// printVersion prints what the go command knew when it built the binary.
func printVersion(w io.Writer, info *debug.BuildInfo) error {
	version := info.Main.Version
	if version == "" {
		version = "(devel)"
	}
	line := "ipvsync " + version
	settings := make(map[string]string)
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if commit := settings["vcs.revision"]; commit != "" {
		line += ", commit " + commit[:min(12, len(commit))]
		if t := settings["vcs.time"]; t != "" {
			line += " of " + t
		}
		if settings["vcs.modified"] == "true" {
			line += ", modified"
		}
	}
	_, err := fmt.Fprintf(w, "%s, %s %s/%s\n", line, info.GoVersion, runtime.GOOS, runtime.GOARCH)
	return err
}
