// The server's routes and what they give.

export type Triple = [number, number, number]
export type Value = number | string | boolean | null

export interface Folder {
  path: string
  version: string
  kind: 'cohort' | 'bids' | 'results' | 'empty'
  n_scans: number
  n_failed: number
  n_excluded: number
  results: string[]
  messages: string[]
  command: string
}

export interface Column {
  name: string
  description: string
  unit: string | null
  type: 'id' | 'number' | 'category' | 'text'
  levels?: string[]
}

export interface Scan {
  scan: string
  participant_id: string
  session_id: string | null
  status: 'done' | 'failed' | 'waiting'
  excluded: string | null
  flags: string[]
  thumbnail: string | null
  values: Record<string, Value>
}

export interface Cohort {
  columns: Column[]
  rows: Scan[]
  warnings: string[]
  responses: { name: string; description: string }[]
}

export type Role = 't1w' | 'gm' | 'wm' | 'csf' | 'label' | 'lesion' | 'warped' | 'template' | 'outline'

export interface ScanImage {
  label: string
  role: Role
  space: 'scan' | 'template'
  url: string
  range: [number, number] | null
}

export interface ScanDetail {
  scan: string
  images: ScanImage[]
  picture: string | null
  quality: { name: string; value: Value; description: string; flagged: boolean }[]
  notes: string[]
}

export interface ModelRequest {
  formula: string
  contrasts: Record<string, string>
  level: string
  repeats: number
  inference: string[]
  permutations: number
  variance: string
  fwhm: number | null
  where: string
}

export interface DesignContrast {
  name: string
  kind: 't' | 'F'
  weights: number[] | number[][]
  text: string
}

export interface Design {
  ok: boolean
  error: string | null
  response: string
  n_scans: number
  columns: { name: string; kind: string; line: string }[]
  regressors: string[]
  matrix: number[][]
  correlations: number[][]
  vif: Record<string, number | null>
  warnings: string[]
  contrasts: DesignContrast[]
  estimate: { seconds: number; memory_gb: number } | null
  command: string
}

export interface Job {
  id: string
  command: string // its whole line
  title: string
  state: 'running' | 'done' | 'failed' | 'stopped' | 'interrupted'
  started: string
  ended: string | null
  exit_code: number | null
  progress: Progress | null
  result: string | null
}

export interface Progress {
  done: number
  total: number
  text: string
}

export interface ResultSummary {
  id: string
  title: string
  formula: string
  n_scans: number
  level: string
  inference: string[] | string
  made: string
  version: string
  problem: string | null
}

export interface StatMap {
  label: string
  url: string
  kind: 'statistic' | 'effect' | 'p' | 'stability'
  description: string
}

export interface Threshold {
  label: string
  height: number | null
  two_sided: boolean
  note: string | null
}

export interface Cluster {
  rank: number
  region: string
  t: number | null
  p_fwe: number | null
  peak_mm: Triple
  extent_ml: number
  extent_voxels: number
}

export interface Clusters {
  contrast: string
  height: number
  by: string
  clusters: Cluster[]
  command: string
}

export interface Regions {
  columns: string[]
  rows: Record<string, Value>[]
}

export interface ResultContrast {
  name: string
  label: string // as files call it
  kind: string
  maps: StatMap[]
  thresholds: Threshold[]
  clusters: Cluster[]
  stability: string | null
}

export interface Result {
  id: string
  formula: string
  n_scans: number
  df: number | null
  level: string
  median: boolean
  voxel_size_mm: Triple | null
  notes: string[]
  contrasts: ResultContrast[]
  report: string | null
  template: string
  command: string
}

export interface Point {
  scan: string
  x: number | string | null
  y: number | null
  group: string | null
  residual: number
  cook: number
  leverage: number
}

export interface People {
  place: { name: string; mm: Triple | null; region: string | null; statistic: number; result: string }
  x: { name: string; unit: string; is_factor: boolean }
  y: { name: string }
  adjusted_for: string[]
  points: Point[]
  lines: { group: string | null; x: (number | string)[]; y: number[]; low: number[]; high: number[] }[]
  notes: string[]
  command: string
}

export interface Pair {
  r: number
  slope: number | null
  contrast: string
  points: [number, number][]
  notes: string[]
}

/** What the server says is wrong, in its own sentence. */
export class Refused extends Error {}

async function ask<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const init: RequestInit = { method, headers: { Accept: 'application/json' }, signal: signal ?? null }
  if (body !== undefined) {
    init.body = JSON.stringify(body)
    init.headers = { 'Content-Type': 'application/json', Accept: 'application/json' }
  }
  let answer: Response
  try {
    answer = await fetch(path, init)
  } catch (error) {
    if (signal?.aborted) throw error
    throw new Refused('The workbench does not answer. Start it again with vbmstat ui, and open the address that it prints.')
  }
  const text = await answer.text()
  let data: unknown
  try {
    data = JSON.parse(text || 'null')
  } catch {
    throw new Refused(`Expected an answer in JSON from ${path}, got HTTP ${answer.status}.`)
  }
  if (!answer.ok) throw new Refused((data as { error?: string } | null)?.error ?? `${path}: HTTP ${answer.status}`)
  return data as T
}

export const get = <T>(path: string, signal?: AbortSignal) => ask<T>('GET', path, undefined, signal)
export const post = <T>(path: string, body?: unknown, signal?: AbortSignal) => ask<T>('POST', path, body, signal)
export const put = <T>(path: string, body: unknown) => ask<T>('PUT', path, body)
export const remove = <T>(path: string) => ask<T>('DELETE', path)
export const id = encodeURIComponent
