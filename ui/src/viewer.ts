// Slices of images that lie on one another, in NiiVue.
import { DRAG_MODE, Niivue, NVImage, SHOW_RENDER, SLICE_TYPE } from '@niivue/niivue'
import { Refused, type Triple } from './api'
import { fill, h, notice, number } from './dom'

export interface Layer {
  label: string
  url: string
  colormap: string
  range?: [number, number] | null // intensities at the ends of the colours
  opacity?: number
  prepare?: (image: NVImage) => void // changes intensities before they are shown
  silent?: boolean // its value is not read out
}

export type Sides = 'both' | 'positive' | 'negative'

const FAR = 1e30 // an end of a scale that no voxel reaches
const COLOURS: Record<string, [number, number, number]> = {
  orange: [230, 159, 0], blue: [86, 180, 233], teal: [0, 200, 150], magenta: [255, 80, 200], yellow: [240, 228, 66],
}

export class Viewer {
  readonly element: HTMLElement
  onMove: (mm: Triple, byPerson: boolean) => void = () => {}
  private readonly canvas = h('canvas', { tabindex: 0 })
  private readonly readout = h('output', { class: 'readout' })
  private readonly message = h('div', { class: 'over', 'aria-live': 'polite' })
  private readonly scale = h('div', { class: 'scale' })
  private readonly nv: Niivue
  private readonly ready: Promise<unknown>
  private layers: Layer[] = []
  private ends: [number, number][] = [] // smallest and largest intensity of each layer
  private moving = false
  private showing = 0

  constructor(name: string, private readonly extra: (mm: Triple) => string = () => '') {
    this.canvas.setAttribute('aria-label', `${name}. Arrow keys, Page Up and Page Down move the crosshair by a voxel.`)
    this.canvas.setAttribute('role', 'img')
    const convention = h('button', { type: 'button', class: 'quiet small', title: 'Swap left and right' }, 'Left is left')
    convention.addEventListener('click', () => {
      const radiological = !this.nv.opts.isRadiologicalConvention
      this.nv.setRadiologicalConvention(radiological)
      convention.textContent = radiological ? 'Left is right (radiological)' : 'Left is left'
    })
    this.element = h('figure', { class: 'viewer' },
      h('div', { class: 'stage' }, this.canvas, this.message),
      h('figcaption', {}, this.readout, this.scale, convention))
    this.nv = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.35, 0.9, 0.45, 0.9], crosshairWidth: 0.7, crosshairWidthUnit: 'mm', showAllOrientationMarkers: true, fontColor: [1, 1, 1, 1],
      isSliceMM: true, isCornerOrientationText: false, multiplanarShowRender: SHOW_RENDER.NEVER, sliceType: SLICE_TYPE.MULTIPLANAR,
      multiplanarPadPixels: 6, dragMode: DRAG_MODE.pan, dragAndDropEnabled: false, scrollRequiresFocus: true, isColorbar: false,
      viewModeHotKey: '', clipPlaneHotKey: '', cycleClipPlaneHotKey: '', loadingText: '', logLevel: 'error',
    })
    for (const [name, rgb] of Object.entries(COLOURS)) this.nv.addColormap(name, ramp(rgb))
    this.nv.addColormap('tissues', { R: [0, 86, 230, 245], G: [0, 180, 159, 240], B: [0, 233, 0, 225], A: [0, 255, 255, 255], I: [0, 85, 170, 255] })
    this.nv.onLocationChange = () => this.moved()
    this.canvas.addEventListener('keydown', event => this.key(event), { capture: true })
    this.ready = new Promise(resolve => requestAnimationFrame(resolve)).then(() => this.nv.attachToCanvas(this.canvas))
  }

  /** Load and show images, the first at the bottom; the crosshair stays where it is. `before` may yet change how they look. */
  async show(layers: Layer[], signal: AbortSignal, before: () => void = () => {}): Promise<void> {
    const turn = ++this.showing
    fill(this.message, h('span', { class: 'busy' }, 'Loading…'))
    try {
      await this.ready
      const images = await Promise.all(layers.map(layer => loaded(layer, signal)))
      if (signal.aborted || turn !== this.showing) return
      const first = this.nv.volumes.length === 0
      const at = first ? ([0, 0, 0] as Triple) : this.position
      this.layers = layers
      this.ends = images.map(extremes)
      this.nv.volumes = images
      this.nv.back = images[0] ?? null
      this.nv.overlays = images.slice(1)
      before()
      this.nv.updateGLVolume() // once, not with each image
      fill(this.message)
      this.moveTo(at)
    } catch (error) {
      if (!signal.aborted) fill(this.message, notice(sentence(error), 'error'))
    }
  }

  get position(): Triple {
    const mm = this.nv.frac2mm(this.nv.scene.crosshairPos)
    return [mm[0] ?? 0, mm[1] ?? 0, mm[2] ?? 0]
  }

  moveTo(mm: Triple): void {
    if (!this.nv.volumes.length) return
    this.moving = true
    this.nv.scene.crosshairPos = this.nv.mm2frac(mm)
    this.nv.createOnLocationChange()
    this.nv.drawScene()
    this.moving = false
  }

  setOpacity(layer: number, opacity: number): void {
    if (this.nv.volumes[layer]) this.nv.setOpacity(layer, opacity)
  }

  /** Largest absolute intensity of a layer. */
  largest(layer: number): number {
    return Math.max(...(this.ends[layer] ?? [0]).map(Math.abs))
  }

  smallest(layer: number): number {
    return this.ends[layer]?.[0] ?? 0
  }

  image(layer: number): NVImage | undefined {
    return this.nv.volumes[layer]
  }

  /** Centre of a layer's voxel, of which the value at RAS mm is: between two voxels others might take the other one. */
  centre(layer: number, mm: Triple): Triple {
    const image = this.nv.volumes[layer]
    if (!image?.matRAS) return mm
    const found = image.vox2mm([...image.mm2vox([...mm]) as unknown as Triple], image.matRAS)
    return [found[0]!, found[1]!, found[2]!]
  }

  value(layer: number, mm: Triple = this.position): number {
    const image = this.nv.volumes[layer]
    return image ? valueAt(image, mm) : NaN
  }

  /** Let a layer show only beyond a height, in warm and cold colours, from the next drawing on. */
  setThreshold(layer: number, height: number, sides: Sides): void {
    const image = this.nv.volumes[layer]
    if (!image) return
    const top = Math.max(this.largest(layer), height + 1e-3)
    ;[image.cal_min, image.cal_max] = sides === 'negative' ? [FAR, 2 * FAR] : [height, top]
    image.colormapNegative = sides === 'positive' ? '' : 'winter'
    ;[image.cal_minNeg, image.cal_maxNeg] = [-top, -height]
  }

  /** Draw a layer again whose colours have changed; those below it stay. */
  redraw(layer: number): void {
    const image = this.nv.volumes[layer]
    if (!image) return
    this.nv.refreshLayers(image, layer)
    this.nv.drawScene()
  }

  /** Name the colours: `t 3.1 to 9.2`, with what stands at their ends. */
  setScale(name: string, colours: { colormap: string; ends: [string, string] }[]): void {
    fill(this.scale, ...colours.flatMap(one => [one.ends[0], this.gradient(one.colormap), one.ends[1]].map(part =>
      typeof part === 'string' ? h('span', {}, part) : part)), h('span', { class: 'unit' }, name))
  }

  dispose(): void {
    void this.ready.then(() => {
      this.nv.cleanup()
      this.nv.gl.getExtension('WEBGL_lose_context')?.loseContext()
    }, () => {})
  }

  private gradient(colormap: string): HTMLCanvasElement {
    const lut = this.nv.colormap(colormap.replace('-', ''))
    const bar = h('canvas', { width: 256, height: 1, class: 'gradient', 'aria-hidden': 'true' })
    const row = new ImageData(256, 1)
    for (let i = 0; i < 256; i++) {
      const from = colormap.startsWith('-') ? 255 - i : i
      row.data.set([lut[4 * from] ?? 0, lut[4 * from + 1] ?? 0, lut[4 * from + 2] ?? 0, 255], 4 * i)
    }
    bar.getContext('2d')?.putImageData(row, 0, 0)
    return bar
  }

  private moved(): void {
    const mm = this.position
    const values = this.layers.flatMap((layer, at) => layer.silent ? [] : [`${layer.label} ${number(this.value(at, mm), 3)}`])
    this.readout.textContent = [mm.map(one => number(Math.round(Math.round(one * 100) / 100))).join(', ') + ' mm', this.extra(mm), ...values]
      .filter(Boolean).join(' · ')
    this.onMove(mm, !this.moving)
  }

  private key(event: KeyboardEvent): void {
    const steps: Record<string, Triple> = {
      ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1],
    }
    const step = steps[event.key]
    if (!step || !this.nv.volumes.length) return
    event.preventDefault()
    event.stopPropagation()
    this.nv.moveCrosshairInVox(...step)
  }
}

/** Read an image; a refusal of the server is its own sentence. */
export async function loaded(layer: Layer, signal: AbortSignal): Promise<NVImage> {
  const answer = await fetch(layer.url, { signal })
  if (!answer.ok) {
    const said = (await answer.json().catch(() => null)) as { error?: string } | null
    throw new Refused(said?.error ?? `${layer.label}: HTTP ${answer.status}`)
  }
  const image = await NVImage.loadFromUrl({
    url: await answer.arrayBuffer(), name: decodeURIComponent(layer.url.split('?')[0]?.split('/').pop() ?? 'image.nii'),
    colormap: layer.colormap, opacity: layer.opacity ?? 1,
    ...(layer.range ? { cal_min: layer.range[0], cal_max: layer.range[1] } : {}),
  } as unknown as Parameters<typeof NVImage.loadFromUrl>[0])
  if (layer.prepare) {
    layer.prepare(image)
    image.calMinMax()
  }
  if (layer.range) [image.cal_min, image.cal_max] = layer.range
  return image
}

/** Intensity at RAS mm, NaN outside. */
export function valueAt(image: NVImage, mm: Triple): number {
  const [x, y, z] = image.mm2vox([...mm]) as unknown as Triple
  const dims = image.dimsRAS ?? [3, 0, 0, 0]
  const inside = [x, y, z].every((one, axis) => one >= 0 && one < (dims[axis + 1] ?? 0))
  return inside ? image.getValue(x, y, z) : NaN
}

/** Smallest and largest intensity. */
function extremes(image: NVImage): [number, number] {
  let [low, high] = [Infinity, -Infinity]
  image.img?.forEach(value => {
    if (value < low) low = Number(value)
    if (value > high) high = Number(value)
  })
  const slope = image.hdr?.scl_slope || 1
  const inter = image.hdr?.scl_inter ?? 0
  return [low * slope + inter, high * slope + inter]
}

function ramp(rgb: [number, number, number]) {
  const [R, G, B] = rgb.map(value => [Math.round(value * 0.35), value]) as [number[], number[], number[]]
  return { R, G, B, A: [0, 255], I: [0, 255] }
}

function sentence(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error)
  return /webgl/i.test(text) ? 'This browser has no WebGL 2, which the viewer needs; try a current Firefox, Chrome or Edge.' : text
}
