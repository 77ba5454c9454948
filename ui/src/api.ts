// The server's routes and what they give.

export type Triple = [number, number, number]
export type Value = number | string | boolean | null

export interface Folder {
  path: string; version: string; kind: 'cohort' | 'bids' | 'results' | 'empty'; n_failed: number; can_preprocess: boolean; messages: string[]; command: string
}

export interface Column { name: string; description: string; unit: string; type: 'number' | 'category' | 'text'; levels?: string[] }

export interface Scan {
  scan: string; status: 'done' | 'failed' | 'waiting'; excluded: string | null; flags: string[]; thumbnail: string | null
  values: Record<string, Value>
}

export interface Cohort { columns: Column[]; rows: Scan[]; warnings: string[]; responses: { name: string; description: string }[] }

export type Role = 't1w' | 'gm' | 'wm' | 'csf' | 'label' | 'lesion' | 'warped' | 'template' | 'outline'
export type Space = 'scan' | 'template'

export interface ScanImage { label: string; role: Role; space: Space; url: string; range: [number, number] | null; command: string }

export interface ScanDetail {
  images: ScanImage[]; picture: string | null; notes: string[]
  quality: { label: string; value: Value; description: string; flagged: boolean }[]
}

export interface ModelRequest {
  formula: string; contrasts: Record<string, string>; level: string; repeats: number; inference: string[]; permutations: number
  variance: string; fwhm: number | null; where: string
}

export interface Design {
  ok: boolean; error: string | null; n_scans: number; columns: { line: string }[]; regressors: string[]; matrix: number[][]
  correlations: (number | null)[][]; vif: Record<string, number | null>; warnings: string[]
  contrasts: { name: string; kind: 't' | 'F'; text: string }[]
  estimate: { text: string } | null; command: string
}

export interface Job {
  id: string; title: string; command: string; state: 'running' | 'done' | 'failed' | 'stopped' | 'interrupted'
  progress: { done: number; total: number; text: string } | null; result: string | null
}

export interface ResultSummary {
  id: string; title: string; formula: string | null; n_scans: number | null; level: string; inference: string[]; made: string
  problem: string | null
}

export interface StatMap { label: string; url: string; kind: 'statistic' | 'effect' | 'p' | 'stability'; description: string }

export interface Cluster { rank: number; region: string; t: number | null; p_fwe: number | null; peak_mm: Triple; extent_ml: number }

export interface Clusters { by: string; clusters: Cluster[]; command: string }

export interface ResultContrast {
  name: string; kind: string; label: string // as files call it
  maps: StatMap[]; thresholds: { label: string; height: number | null; two_sided: boolean; note: string }[]; clusters: Cluster[]
}

export interface Result {
  id: string; formula: string; n_scans: number; df: number | null; level: string; notes: string[]; contrasts: ResultContrast[]
  report: string | null; template: string; command: string
}

export interface Regions { columns: string[]; rows: Record<string, Value>[] }

export interface Point { scan: string; x: number | string | null; y: number | null; group: string | null; cook: number }

export interface People {
  place: { name: string; result: string }
  x: { name: string; unit: string; is_factor: boolean }; y: { name: string }; adjusted_for: string[]; points: Point[]
  lines: { group: string | null; x: (number | string)[]; y: number[]; low: number[]; high: number[] }[]
  notes: string[]; command: string
}

export interface Pair { r: number; slope: number | null; points: [number, number][]; notes: string[]; command: string }

export interface Folders { given: string; open: string; folders: { path: string; what: string }[] }

/** The folder that this page shows: another tab may have opened another one meanwhile. */
let shown = ''

/** What the server says is wrong, in its own sentence. */
export class Refused extends Error {}

async function ask<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const headers: Record<string, string> = { Accept: 'application/json', ...(shown && { 'vbmstat-folder': encodeURIComponent(shown) }) }
  const init: RequestInit = { method, headers, signal: signal ?? null }
  if (method !== 'GET') {
    init.body = JSON.stringify(body ?? {})
    headers['Content-Type'] = 'application/json'
  }
  let answer: Response
  try {
    answer = await fetch(path, init)
  } catch (error) {
    if (signal?.aborted) throw error
    throw new Refused('The workbench does not answer. Start it again with vbmstat ui, and open the address that it prints.')
  }
  const data = await answer.json().catch(() => ({ error: `Expected an answer in JSON from ${path}, got HTTP ${answer.status}.` })) as { error?: string } & T
  if (!answer.ok) throw new Refused(data.error ?? `${path}: HTTP ${answer.status}`)
  if (path === '/api/folder') shown ||= (data as unknown as Folder).path
  return data
}

export const get = <T>(path: string, signal?: AbortSignal) => ask<T>('GET', path, undefined, signal)
export const post = <T>(path: string, body?: unknown, signal?: AbortSignal) => ask<T>('POST', path, body, signal)
export const put = <T>(path: string, body: unknown) => ask<T>('PUT', path, body)
export const remove = <T>(path: string) => ask<T>('DELETE', path)
export const id = encodeURIComponent
