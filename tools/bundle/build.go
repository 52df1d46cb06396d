package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
)

// A bundle is one file of dist that esbuild makes from an entry of src.
type bundle struct {
	entry string
	out   string
	chart string // where the chart, which is loaded lazily, lies for this bundle; "" where none is imported
	notes string // licence of a package whose code is in it, kept as a comment
}

var bundles = []bundle{
	{entry: "src/widget/usage.ts", out: "odometer-usage.js", chart: "./odometer-chart.js"},
	{entry: "src/chart/chart.ts", out: "odometer-chart.js", notes: "node_modules/uplot/LICENSE"},
	{entry: "src/dashboard/dashboard.ts", out: "assets/dashboard.js", chart: "/odometer-chart.js"},
	{entry: "src/dashboard/dashboard.css", out: "assets/dashboard.css"},
	{entry: "src/docs/docs.ts", out: "docs/docs.js"},
	{entry: "src/docs/docs.css", out: "docs/docs.css"},
}

// copies are files of dist that are in src as they are.
var copies = map[string]string{
	"src/dashboard/index.html":  "index.html",
	"src/dashboard/favicon.svg": "assets/favicon.svg",
	"src/docs/index.html":       "docs/index.html",
}

// build makes every file of dist, by its name there, from the sources and
// packages in the folder web.
func build(web string) (map[string][]byte, error) {
	web, err := filepath.Abs(web)
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte)
	for _, b := range bundles {
		if files[b.out], err = b.build(web); err != nil {
			return nil, fmt.Errorf("bundle %s: %w", b.entry, err)
		}
	}
	for from, to := range copies {
		if files[to], err = os.ReadFile(filepath.Join(web, from)); err != nil {
			return nil, fmt.Errorf("copy to %s: %w", to, err)
		}
	}
	return files, nil
}

func (b bundle) build(web string) ([]byte, error) {
	options := api.BuildOptions{
		AbsWorkingDir:     web,
		EntryPoints:       []string{b.entry},
		Outfile:           b.out,
		Bundle:            true,
		Format:            api.FormatESModule,
		Target:            api.ES2022,
		Platform:          api.PlatformBrowser,
		Charset:           api.CharsetUTF8,
		MinifyWhitespace:  true,
		MinifyIdentifiers: true,
		MinifySyntax:      true,
		LegalComments:     api.LegalCommentsInline,
		LogLevel:          api.LogLevelSilent, // the errors are in the result
	}
	if filepath.Ext(b.out) == ".js" {
		options.Plugins = []api.Plugin{b.lazyChart(), cssText}
	}
	if b.notes != "" {
		text, err := os.ReadFile(filepath.Join(web, b.notes))
		if err != nil {
			return nil, err
		}
		options.Banner = map[string]string{"js": "/*!\n" + string(text) + "\n*/"}
	}
	result := api.Build(options)
	if err := failure(result.Errors, result.Warnings); err != nil {
		return nil, err
	}
	if n := len(result.OutputFiles); n != 1 {
		return nil, fmt.Errorf("%d files came out of it, want 1", n)
	}
	return result.OutputFiles[0].Contents, nil
}

// lazyChart leaves import("odometer-chart") to the browser, which finds the
// chart where the bundle's page has it.
func (b bundle) lazyChart() api.Plugin {
	return api.Plugin{Name: "lazy chart", Setup: func(build api.PluginBuild) {
		build.OnResolve(api.OnResolveOptions{Filter: `^odometer-chart$`}, func(api.OnResolveArgs) (api.OnResolveResult, error) {
			if b.chart == "" {
				return api.OnResolveResult{}, errors.New("nothing tells this bundle where the chart is")
			}
			return api.OnResolveResult{Path: b.chart, External: true}, nil
		})
	}}
}

// cssText gives a module that imports a style sheet its minified text, for a
// constructed sheet in a shadow root.
var cssText = api.Plugin{Name: "css as text", Setup: func(build api.PluginBuild) {
	build.OnLoad(api.OnLoadOptions{Filter: `\.css$`}, func(args api.OnLoadArgs) (api.OnLoadResult, error) {
		source, err := os.ReadFile(args.Path)
		if err != nil {
			return api.OnLoadResult{}, err
		}
		sheet := api.Transform(string(source), api.TransformOptions{
			Loader:           api.LoaderCSS,
			Charset:          api.CharsetUTF8,
			MinifyWhitespace: true,
			MinifySyntax:     true,
			LegalComments:    api.LegalCommentsNone,
		})
		text := strings.TrimSpace(string(sheet.Code))
		return api.OnLoadResult{Contents: &text, Loader: api.LoaderText, Errors: sheet.Errors, Warnings: sheet.Warnings}, nil
	})
}}

// failure joins what esbuild has to say; a warning is as good as an error in
// what is committed.
func failure(lists ...[]api.Message) error {
	var all []error
	for _, list := range lists {
		for _, m := range list {
			if m.Location == nil {
				all = append(all, errors.New(m.Text))
				continue
			}
			all = append(all, fmt.Errorf("%s:%d:%d: %s", m.Location.File, m.Location.Line, m.Location.Column+1, m.Text))
		}
	}
	return errors.Join(all...)
}
