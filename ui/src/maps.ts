// A result's maps on the template: which contrast, which map, and from what height on.
import type { NVImage } from '@niivue/niivue'
import { get, type Result, type ResultContrast, type StatMap, type Triple } from './api'
import { choice, debounced, fill, h, number } from './dom'
import { loaded, type Sides, valueAt, Viewer } from './viewer'

const NAMES: Record<string, string> = {
  t: 't', F: 'F', z: 'z', d: 'Cohen’s d', dlow: 'Cohen’s d, lower 95 % limit', dhigh: 'Cohen’s d, upper 95 % limit', g: 'Hedges’ g', r: 'partial r',
  effect: 'effect (contrast of coefficients)', variance: 'variance of the effect', sigma2: 'residual variance',
  replication: 'share of subsets with p < 0.05', mediant: 'median t over subsets', medianF: 'median F over subsets',
}
const GROUPS: Record<StatMap['kind'], string> = { statistic: 'Statistic', effect: 'Effect size', p: 'p-values', stability: 'Stability over subsets' }
const P = 0.05
const ROUNDING = 1e-6 // of float32 maps on disk

export class MapPanel {
  readonly element: HTMLElement
  readonly viewer: Viewer
  contrast: ResultContrast
  map: StatMap | null
  height = 0
  private tested = 0 // height of the statistic, whatever map is shown
  sides: Sides = 'both'
  onThreshold: () => void = () => {}
  onContrast: () => void = () => {}
  private readonly controls = h('div', { class: 'tools controls' })
  private readonly changed = debounced(350, () => this.onThreshold())

  constructor(readonly result: Result, contrast: string, private readonly signal: AbortSignal, regionAt: (mm: Triple) => string) {
    this.contrast = result.contrasts.find(one => one.name === contrast) ?? result.contrasts[0]!
    this.map = this.contrast.maps[0] ?? null
    this.viewer = new Viewer(`Map of ${result.formula} on the template`, regionAt)
    this.element = h('div', { class: 'maps' }, this.controls, this.viewer.element)
    signal.addEventListener('abort', () => this.viewer.dispose())
  }

  /** Whether the map is of the statistic that the fit tested. */
  get isStatistic(): boolean {
    return this.map?.kind === 'statistic'
  }

  /** From where on voxels count: at a height of the fit, which is often a voxel's own, that voxel does as well. */
  private from(height: number): number {
    return this.contrast.thresholds.some(one => one.height === height) ? height * (1 - ROUNDING) : height
  }

  /** The height of the statistic as the server takes it: that of clusters and figures, whatever map is shown. */
  get testedFrom(): string {
    return String(Number(this.from(this.tested).toPrecision(9)))
  }

  /** As `from`, of what is shown. */
  get shownFrom(): number {
    return this.isStatistic ? this.from(this.height) : this.height
  }

  /** How the height of the statistic was found, if it is one of the fit's. */
  get testedBy(): string | null {
    return this.contrast.thresholds.find(one => one.height === this.tested)?.label ?? null
  }

  /** Load the chosen map. */
  async load(): Promise<void> {
    const { map } = this
    if (!map) return
    await this.viewer.show([
      { label: 'Template', url: this.result.template, colormap: 'gray', silent: true },
      { label: shortName(map), url: map.url, colormap: 'warm', opacity: 0.9, ...(map.kind === 'p' ? { prepare: toMinusLog } : {}) },
    ], this.signal, () => this.begin(map))
  }

  private begin(map: StatMap): void {
    const top = this.viewer.largest(1)
    const heights = this.contrast.thresholds.filter(one => one.height !== null)
    const reached = heights.find(one => this.from(one.height!) <= top)?.height
    if (!this.isStatistic) this.tested ||= heights[0]?.height ?? 3
    this.height = (this.isStatistic ? reached : null) ?? (map.kind === 'p' ? -Math.log10(P) : map.label === 'replication' ? 0.5 : this.isStatistic ? top * 0.6 : top * 0.1)
    this.sides = this.hasSides ? 'both' : 'positive'
    this.draw()
    this.apply()
  }

  /** Whether values below zero count: not where the model asks for positive effects only. */
  private get hasSides(): boolean {
    return this.viewer.smallest(1) < 0 && !(this.isStatistic && this.contrast.thresholds[0]?.two_sided === false)
  }

  /** Set the height, as the slider does. */
  setHeight(height: number): void {
    this.height = height
    this.draw()
    this.apply()
    this.viewer.redraw(1)
  }

  private apply(): void {
    const { map, height, sides, viewer } = this
    if (!map) return
    if (this.isStatistic) this.tested = height
    viewer.setThreshold(1, this.shownFrom, sides)
    const [low, top] = map.kind === 'p' ? [`${number(10 ** -height, 2)}`, `${number(10 ** -viewer.largest(1), 2)}`]
      : [number(height, 3), number(viewer.largest(1), 3)]
    viewer.setScale(scaleName(map, this.result), [
      ...(sides === 'positive' ? [] : [{ colormap: '-winter', ends: [`−${top}`, `−${low}`] as [string, string] }]),
      ...(sides === 'negative' ? [] : [{ colormap: 'warm', ends: [low, top] as [string, string] }]),
    ])
    this.changed()
  }

  private draw(): void {
    const { map, contrast, result } = this
    if (!map) return
    const top = this.viewer.largest(1)
    const slider = h('input', { type: 'range', min: 0, max: top, step: top / 200, value: this.height, 'aria-label': 'Threshold' })
    const shown = h('output', {}, this.heightText())
    slider.addEventListener('input', () => {
      this.height = Number(Number(slider.value).toPrecision(4)) // what is written is what is shown
      shown.textContent = this.heightText()
      heights?.querySelector('select')?.replaceChildren(...options('own'))
      this.apply()
      this.viewer.redraw(1)
    })
    const given = contrast.thresholds.filter(one => one.height !== null)
    const options = (chosen: string) => [...given.map((one, at) => h('option', { value: at, selected: chosen === String(at), title: one.note ?? '' }, one.label)),
      h('option', { value: 'own', selected: chosen === 'own' }, 'own height')]
    const at = given.findIndex(one => one.height === this.height)
    const heights = this.isStatistic && given.length ? h('label', { class: 'field' }, h('span', {}, 'Threshold'),
      h('select', { onchange: (event: Event) => {
        const one = given[Number((event.target as HTMLSelectElement).value)]
        if (one?.height) this.setHeight(one.height)
      } }, ...options(at < 0 ? 'own' : String(at)))) : null
    const groups = [...new Set(contrast.maps.map(one => one.kind))]
    fill(this.controls,
      choice('Contrast', result.contrasts.map(one => [one.name, one.name]), contrast.name, name => {
        this.contrast = result.contrasts.find(one => one.name === name) ?? contrast
        this.tested = 0
        this.map = this.contrast.maps.find(one => one.label === map.label) ?? this.contrast.maps[0] ?? null
        this.onContrast()
        void this.load()
      }),
      h('label', { class: 'field' }, h('span', {}, 'Map'), h('select', {
        onchange: (event: Event) => {
          this.map = contrast.maps.find(one => one.url === (event.target as HTMLSelectElement).value) ?? null
          void this.load()
        },
      }, ...groups.map(kind => h('optgroup', { label: GROUPS[kind] }, ...contrast.maps.filter(one => one.kind === kind).map(one =>
        h('option', { value: one.url, selected: one === map }, mapName(one))))))),
      heights, h('label', { class: 'field height' }, slider, shown),
      this.hasSides && choice('Show', [['both', '+ and −'], ['positive', 'positive'], ['negative', 'negative']], this.sides, value => {
        this.sides = value as Sides
        this.apply()
        this.viewer.redraw(1)
      }))
  }

  private heightText(): string {
    if (this.map?.kind === 'p') return `${shortName(this.map)} ≤ ${number(10 ** -this.height, 2)}`
    const name = this.map ? shortName(this.map) : ''
    return `${this.sides === 'positive' ? name : `|${name}|`} ≥ ${number(this.height, 3)}`
  }
}

function mapName(map: StatMap): string {
  return NAMES[map.label] ?? map.description.replace(/:.*$/, '')
}

/** A map in a word, for labels beside a number. */
function shortName(map: StatMap): string {
  return { replication: 'share', mediant: 'median t', medianF: 'median F', effect: 'effect' }[map.label] ?? (map.kind === 'p' ? (map.label.startsWith('q') ? 'q' : 'p') : map.label)
}

function scaleName(map: StatMap, result: Result): string {
  if (map.kind === 'statistic' && result.df !== null) return `${map.label} (${number(result.df, 3)} df)`
  return map.kind === 'stability' ? `${mapName(map)}, no p` : mapName(map)
}

/** Small p become large: −log10 p; outside the mask, where p is 0, nothing. */
function toMinusLog(image: NVImage): void {
  image.img?.forEach((value, at, values) => { values[at] = Number(value) > 0 ? -Math.log10(Number(value)) : 0 })
}

/** Names of the regions at RAS mm, by the atlas; nothing where it cannot be read. */
export async function regionNames(signal: AbortSignal): Promise<(mm: Triple) => string> {
  try {
    const [names, atlas] = await Promise.all([
      get<Record<string, string>>('/api/assets/atlas.json', signal),
      loaded({ label: 'Atlas', url: '/api/assets/atlas.nii.gz', colormap: 'gray' }, signal),
    ])
    return mm => names[String(Math.round(valueAt(atlas, mm)))] ?? ''
  } catch {
    return () => ''
  }
}
