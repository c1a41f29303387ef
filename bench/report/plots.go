package main

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

const plotWidth = 18 * vg.Centimeter

var oursColor, theirsColor = color.RGBA{0x1f, 0x77, 0xb4, 0xff}, color.RGBA{0xb0, 0xb0, 0xb0, 0xff}

// drawPlots writes the plots of all sections as SVG files.
func drawPlots(res *results, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	save := func(name string, height vg.Length, p *plot.Plot, err error) error {
		if err == nil {
			err = p.Save(plotWidth, height, filepath.Join(dir, name+".svg"))
		}
		if err != nil {
			return fmt.Errorf("plot %s: %w", name, err)
		}
		return nil
	}
	for _, bench := range res.benches() {
		if rows := res.of(bench); isDuel(rows) {
			p, err := bars(bench, rows)
			if err := save(duelPlot(bench), vg.Length(3+1.1*float64(len(rows)))*vg.Centimeter, p, err); err != nil {
				return err
			}
		}
	}
	for _, percent := range []string{"1", "50", "90"} {
		var rows []*row
		for _, r := range res.of("Latency") {
			if strings.HasSuffix(r.name, ", "+percent+" %") {
				rows = append(rows, r)
			}
		}
		if len(rows) > 0 {
			p, err := latencyCurves("Latency at "+percent+" % of the most that arrives", rows)
			if err := save("latency-"+percent, 10*vg.Centimeter, p, err); err != nil {
				return err
			}
		}
	}
	for _, c := range []struct{ bench, name, x string }{
		{"ScaleFlows", "flows", "flows"}, {"ScaleShards", "shards", "shards"}, {"ScalePorts", "ports", "ports"},
	} {
		if rows := res.of(c.bench); len(rows) > 0 {
			p, err := scaleCurves(c.x, rows)
			if err := save(c.name, 8*vg.Centimeter, p, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// duelPlot is the name of the plot of a duel.
func duelPlot(bench string) string { return "duel-" + strings.ToLower(bench) }

// bars is throughput, ours and theirs, a pair of bars for each duel.
func bars(bench string, rows []*row) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = sectionOf(bench).title
	p.X.Label.Text = "million records a second"
	p.X.Min = 0
	width := vg.Points(9)
	names := make([]string, len(rows))
	for side, unit := range []string{"Mrec/s", "opponent-Mrec/s"} {
		values := make(plotter.Values, len(rows))
		for i := range rows {
			r := rows[len(rows)-1-i] // the first on top
			names[i], values[i] = twoLines(r.name), r.median(unit)
		}
		chart, err := plotter.NewBarChart(values, width)
		if err != nil {
			return nil, err
		}
		chart.Horizontal = true
		chart.LineStyle.Width = 0
		chart.Offset = width * vg.Length(0.5-float64(side)) // ours above
		chart.Color = oursColor
		label := "ours"
		if side == 1 {
			chart.Color, label = theirsColor, "theirs"
		}
		p.Add(chart)
		p.Legend.Add(label, chart)
	}
	p.X.Max *= 1.3 // room for the legend
	p.Legend.Padding = vg.Millimeter
	p.NominalY(names...)
	p.Y.Tick.Label.Font.Size = vg.Points(8)
	p.Y.Padding = vg.Centimeter // a viewer's font may be wider than the one that is measured
	return p, nil
}

// twoLines has the opponent of a duel below ours.
func twoLines(name string) string {
	return strings.Replace(name, " against ", "\nagainst ", 1)
}

// percentile finds the quantiles among the units of a row.
var percentile = regexp.MustCompile(`^p([0-9.]+)-µs$`)

// nines puts percentiles on a scale where each nine takes as much room.
func nines(q float64) float64 { return -math.Log10(1 - q/100) }

// latencyCurves are distributions: µs on a logarithmic scale, percentiles on one
// of nines.
func latencyCurves(title string, rows []*row) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text = "µs from due to handled"
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Y.Label.Text = "percent of the records"
	var ticks []plot.Tick
	for _, q := range []float64{0, 50, 90, 99, 99.9, 99.99} {
		ticks = append(ticks, plot.Tick{Value: nines(q), Label: strconv.FormatFloat(q, 'f', -1, 64)})
	}
	p.Y.Tick.Marker = plot.ConstantTicks(ticks)
	p.Add(plotter.NewGrid())
	for i, r := range rows {
		var points plotter.XYs
		for unit := range r.values {
			if m := percentile.FindStringSubmatch(unit); m != nil {
				q, err := strconv.ParseFloat(m[1], 64)
				if err != nil {
					return nil, err
				}
				points = append(points, plotter.XY{X: max(r.median(unit), 1), Y: nines(q)})
			}
		}
		slices.SortFunc(points, func(a, b plotter.XY) int { return int(math.Copysign(1, a.Y-b.Y)) })
		name, _, _ := cutLast(r.name, ", ")
		if err := addLine(p, i, name, points); err != nil {
			return nil, err
		}
	}
	p.Legend.Top, p.Legend.Left = true, true
	return p, nil
}

// scaleCurves are ns a record against a number in the rows' names, "[line, ]x=n".
func scaleCurves(x string, rows []*row) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = "Cost of a record against " + x
	p.X.Label.Text, p.Y.Label.Text = x, "ns a record"
	p.X.Scale = plot.LogScale{}
	p.Y.Min = 0
	p.Add(plotter.NewGrid())
	lines := map[string]plotter.XYs{}
	var order []string
	var ticks []plot.Tick
	for _, r := range rows {
		line, number, ok := cutLast(r.name, x+"=")
		if !ok {
			return nil, fmt.Errorf("%s/%s: no %s=", r.bench, r.name, x)
		}
		n, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return nil, err
		}
		if line = strings.TrimSuffix(line, ", "); lines[line] == nil {
			order = append(order, line)
		}
		lines[line] = append(lines[line], plotter.XY{X: n, Y: r.median("ns/rec")})
		ticks = append(ticks, plot.Tick{Value: n, Label: number})
	}
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	for i, line := range order {
		if err := addLine(p, i, line, lines[line]); err != nil {
			return nil, err
		}
	}
	p.Legend.Top, p.Legend.Left = true, true
	return p, nil
}

func addLine(p *plot.Plot, i int, name string, points plotter.XYs) error {
	line, dots, err := plotter.NewLinePoints(points)
	if err != nil {
		return err
	}
	line.Color, dots.Color = plotutil.Color(i), plotutil.Color(i)
	line.Dashes, dots.Shape = plotutil.Dashes(i/4), plotutil.Shape(i)
	p.Add(line, dots)
	if name != "" {
		p.Legend.Add(name, line, dots)
	}
	return nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
