// The people behind a place: adjusted data and fit, each point a person whose scan is a click away.
import { id, type People, type Point } from './api'
import { axes, type Frame, range, scale, type Scale, ticks } from './axes'
import { h, notice, number, s } from './dom'

const [WIDTH, HEIGHT] = [460, 330]
const FRAME: Frame = { left: 58, top: 10, right: WIDTH - 12, bottom: HEIGHT - 42 }
const SHAPES = ['M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0', 'M-3.6-3.6h7.2v7.2h-7.2z', 'M0-4.6L4.4 3.4H-4.4z', 'M0-5L4.2 0L0 5L-4.2 0z']
const NAMED = 3 // most influential scans, which are ringed and named
const SPREAD = 0.5 // of a level's points, of the distance between levels

/** The figure; without a p-value where only a median over subsets is looked at. */
export function peopleFigure(people: People, withP: boolean): HTMLElement {
  const levels = people.x.is_factor ? [...new Set(people.lines.flatMap(line => line.x.map(String)).concat(people.points.map(one => String(one.x))))] : null
  const points = people.points.filter(one => one.x !== null && one.y !== null).map((one, at) => ({ ...one, at: place(one.x!, levels, at) }))
  const groups = [...new Set([...people.lines.map(line => line.group), ...points.map(one => one.group)])].filter(group => group)
  const style = (group: string | null) => (groups.length ? groups.indexOf(group) : 0)
  const x = scale(levels ? [-0.5, levels.length - 0.5] : range(points.map(one => one.at)), FRAME.left, FRAME.right)
  const yRange = range([...points.map(one => one.y), ...people.lines.flatMap(line => [...line.low, ...line.high])])
  const y = scale(yRange, FRAME.bottom, FRAME.top)
  const xTicks: [number, string][] = levels ? levels.map((level, at) => [at, level])
    : ticks(...range(points.map(one => one.at), 0)).map(value => [value, number(value, 4)])
  const named = new Set([...points].sort((a, b) => b.cook - a.cook).slice(0, NAMED))
  const said = h('output', { class: 'muted said' }, 'Point at a person; click to see the scan.')
  const marks = points.map(one => mark(one, x(one.at), y(one.y!), style(one.group), named.has(one), text => { said.textContent = text }))
  const unit = people.x.unit ? `${people.x.name} (${people.x.unit})` : people.x.name
  const drawing = s('svg', {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: 'plot', role: 'group',
    'aria-label': `${people.y.name} against ${unit} of ${points.length} people. Arrow keys go from person to person, Enter opens the scan.`,
  },
  axes(FRAME, x, y, { x: xTicks, y: ticks(...yRange) }, { x: unit, y: `${people.y.name}, adjusted` }),
  ...people.lines.map(line => fitted(line, levels, x, y, style(line.group))), ...marks)
  roving(drawing, marks)
  return h('div', { class: 'people' },
    h('p', {}, h('strong', {}, people.place.name ?? ''), h('br'), withP ? people.place.result : people.place.result.replace(/, (uncorrected )?p\b.*$/, '')),
    groups.length > 1 && h('p', { class: 'legend' }, ...groups.map(group =>
      h('span', {}, swatch(style(group), points.every(one => one.group !== group)), ` ${group} `))),
    drawing, said,
    people.adjusted_for.length > 0 && h('p', { class: 'muted' }, `Adjusted for ${people.adjusted_for.join(', ')}.`),
    ...people.notes.map(text => notice(text)))
}

/** The colour of a group; what belongs to no group has that of the text. */
const series = (style: number) => (style < 0 ? '' : `s${style % 6}`)

type Placed = Point & { at: number }

/** A point's place on the axis; points of a level are spread, the same way each time. */
function place(x: number | string, levels: string[] | null, at: number): number {
  return levels ? levels.indexOf(String(x)) + SPREAD * (((at * 0.618) % 1) - 0.5) : Number(x)
}

function mark(point: Placed, x: number, y: number, style: number, named: boolean, say: (text: string) => void): SVGElement {
  const text = `${point.scan}: ${typeof point.x === 'number' ? number(point.x) : point.x}, ${number(point.y, 3)}; Cook’s distance ${number(point.cook, 2)}`
  const right = x > WIDTH * 0.75
  return s('a', {
    href: `#/scan/${id(point.scan)}`, transform: `translate(${x} ${y})`, class: `person ${series(style)}`, 'aria-label': text, tabindex: -1,
    onmouseenter: () => say(text), onfocus: () => say(text),
  }, s('circle', { r: 9, class: 'target' }), named && s('circle', { r: 7.5, class: 'ring' }),
  s('path', { d: SHAPES[Math.max(style, 0) % SHAPES.length] }),
  named && s('text', { x: right ? -11 : 11, y: 4, 'text-anchor': right ? 'end' : 'start' }, point.scan))
}

/** A line with its band; of a factor a mean with its interval. */
function fitted(line: People['lines'][number], levels: string[] | null, x: Scale, y: Scale, style: number): SVGElement {
  const at = line.x.map(value => x(levels ? levels.indexOf(String(value)) : Number(value)))
  const [low, high] = [line.low.map(y), line.high.map(y)]
  if (levels) {
    return s('g', { class: `fit ${series(style)}` }, ...at.map((where, one) =>
      s('path', { class: 'mean', d: `M${where} ${low[one]}V${high[one]}M${where - 14} ${y(line.y[one]!)}h28` })))
  }
  const path = (ys: number[], xs = at) => xs.map((where, one) => `${where} ${ys[one]}`).join('L')
  return s('g', { class: `fit ${series(style)}` },
    s('path', { class: 'band', d: `M${path(high)}L${path([...low].reverse(), [...at].reverse())}Z` }),
    s('path', { class: 'mean', d: `M${path(line.y.map(y))}` }))
}

/** The mark of a group: of one without points its line. */
function swatch(style: number, isLine: boolean): SVGElement {
  if (isLine) return s('svg', { width: 16, height: 12, viewBox: '-8 -6 16 12', class: `fit ${series(style)}`, 'aria-hidden': 'true' }, s('path', { class: 'mean', d: 'M-8 0h16' }))
  return s('svg', { width: 12, height: 12, viewBox: '-6 -6 12 12', class: `person ${series(style)}`, 'aria-hidden': 'true' }, s('path', { d: SHAPES[style % SHAPES.length] }))
}

/** One stop of the Tab key; the arrow keys go on from person to person, from left to right. */
function roving(drawing: SVGElement, marks: SVGElement[]): void {
  const sorted = [...marks].sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x)
  sorted[0]?.setAttribute('tabindex', '0')
  drawing.addEventListener('keydown', event => {
    const order = [...marks].sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x)
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key]
    if (!step) return
    event.preventDefault()
    const from = order.indexOf(document.activeElement as SVGElement)
    const next = order[Math.min(Math.max(from + step, 0), order.length - 1)]
    marks.forEach(one => one.setAttribute('tabindex', one === next ? '0' : '-1'))
    next?.focus()
  })
}
