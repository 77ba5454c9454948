// The cohort: a table of scans with their quality, to sort, filter and open.
import { type Cohort, type Column, type Folder, type Folders, get, type Scan, type Value } from './api'
import { showCommand } from './command'
import { add, choice, debounced, h, notice } from './dom'
import { folderList } from './folders'
import { preprocessing } from './jobs'
import { type TableColumn, VirtualTable } from './table'

const ROW_PX = 44
const SHOWN_AT_FIRST = 14
const kept = { filter: '', status: 'all', sort: 'scan', falling: false, columns: null as Set<string> | null }
let order: string[] = []

/** Ids in the order in which the table was last seen, for next and previous. */
export const lastOrder = (): string[] => order

export async function cohortView(host: HTMLElement, _: string[], signal: AbortSignal): Promise<void> {
  const [folder, cohort] = await Promise.all([get<Folder>('/api/folder', signal), get<Cohort>('/api/cohort', signal)])
  showCommand(folder.command)
  const head = h('div', { class: 'tools' }, h('h1', {}, 'Cohort'))
  add(host, head, ...folder.messages.map(text => notice(text)), ...cohort.warnings.map(text => notice(text, 'warning')))
  await preprocessing(head, host, folder, cohort.rows.filter(row => row.status === 'waiting').length, signal)
  if (cohort.rows.length) add(host, ...scanTable(cohort))
  if (folder.kind === 'empty') add(host, ...folderList(await get<Folders>('/api/folders', signal)))
}

function scanTable(cohort: Cohort): HTMLElement[] {
  const table = new VirtualTable<Scan>('Scans with their covariates and quality', ROW_PX, kept.sort, kept.falling)
  const count = h('output', { class: 'count', 'aria-live': 'polite' })
  kept.columns ??= new Set(cohort.columns.filter(one => one.type !== 'text').slice(0, SHOWN_AT_FIRST).map(one => one.name))
  const shown = kept.columns
  const update = () => {
    const rows = cohort.rows.filter(row => hasStatus(row, kept.status) && matches(row, kept.filter, cohort.columns))
    table.setRows(rows)
    order = table.order.map(row => row.scan)
    count.textContent = counted(rows, cohort.rows.length)
  }
  const setColumns = () => table.setColumns([...standing, ...cohort.columns.filter(one => shown.has(one.name)).map(one => valueColumn(one, cohort.rows))])
  const search = h('input', {
    type: 'search', value: kept.filter, placeholder: 'sub-01, patient, age > 60', size: 28,
    oninput: debounced(120, () => {
      kept.filter = search.value
      update()
    }),
  })
  table.element.addEventListener('click', event => {
    ;[kept.sort, kept.falling] = table.sorting
    order = table.order.map(row => row.scan)
    const target = event.target as HTMLElement
    if (!target.closest('a, button')) target.closest('tr')?.querySelector<HTMLAnchorElement>('a')?.click()
  })
  setColumns()
  update()
  const states: [string, string][] = [
    ['all', 'all scans'], ['flagged', 'flagged'], ['excluded', 'excluded'], ['included', 'not excluded'],
    ['failed', 'failed'], ['waiting', 'waiting'],
  ]
  return [
    h('div', { class: 'tools' },
      h('label', { class: 'field' }, h('span', {}, 'Find'), search),
      choice('Show', states, kept.status, value => {
        kept.status = value
        update()
      }),
      columnMenu(cohort.columns, shown, () => {
        setColumns()
        update()
      }), count),
    table.element,
  ]
}

const standing: TableColumn<Scan>[] = [
  {
    name: 'scan', width: 20, sort: row => row.scan,
    cell: row => h('a', { href: `#/scan/${encodeURIComponent(row.scan)}`, class: 'scan' },
      h('span', { class: 'thumb' }, row.thumbnail && h('img', { src: row.thumbnail, alt: '', loading: 'lazy' })),
      h('span', {}, row.scan)),
  },
  {
    name: 'status', width: 10, sort: row => (row.excluded === null ? row.status : 'excluded'),
    cell: row => row.excluded === null ? h('span', { class: `chip ${row.status}` }, row.status)
      : h('span', { class: 'chip excluded', title: row.excluded }, 'excluded'),
  },
  {
    name: 'flags', width: 6, numeric: true, title: 'What the quality measures warn of', sort: row => row.flags.length,
    cell: row => row.flags.length ? h('span', { class: 'flag', title: row.flags.join('\n') }, row.flags.length) : '',
  },
]

function valueColumn(column: Column, rows: Scan[]): TableColumn<Scan> {
  const known = rows.map(row => row.values[column.name]).filter(value => value !== null && value !== undefined)
  const decimals = decimalsOf(known)
  const longest = column.type === 'number' ? 7 : Math.max(4, ...known.map(value => String(value).length))
  return {
    name: column.name,
    title: column.unit ? `${column.description} (${column.unit})` : column.description,
    numeric: column.type === 'number',
    width: Math.min(Math.max(column.name.length + 2, longest), 24),
    sort: row => row.values[column.name] ?? null,
    cell: row => shownValue(row.values[column.name] ?? null, decimals),
  }
}

function shownValue(value: Value, decimals: number): string {
  if (typeof value === 'number') return value.toFixed(decimals).replace('-', '−')
  return value === null ? '–' : String(value)
}

/** Decimals that a column has, at most those that leave its largest number four digits. */
function decimalsOf(values: (Value | undefined)[]): number {
  const numbers = values.filter(value => typeof value === 'number')
  const written = Math.max(0, ...numbers.map(value => String(value).split('.')[1]?.length ?? 0))
  return Math.min(written, Math.max(1, 3 - Math.floor(Math.log10(Math.max(...numbers.map(Math.abs), 1e-3)))))
}

function columnMenu(columns: Column[], shown: Set<string>, onChange: () => void): HTMLElement {
  return h('details', { class: 'menu' }, h('summary', {}, 'Columns'), h('div', { class: 'sheet' },
    ...columns.map(column => h('label', { title: column.description },
      h('input', {
        type: 'checkbox', checked: shown.has(column.name),
        onchange: (event: Event) => {
          if ((event.target as HTMLInputElement).checked) shown.add(column.name)
          else shown.delete(column.name)
          onChange()
        },
      }), ` ${column.name}`))))
}

function counted(rows: Scan[], all: number): string {
  const excluded = rows.filter(row => row.excluded !== null).length
  const flagged = rows.filter(row => row.flags.length).length
  const scans = all === 1 ? 'scan' : 'scans'
  const some = rows.length === all ? `${all} ${scans}` : `${rows.length} of ${all} ${scans}`
  return `${some}, ${flagged} flagged, ${excluded} excluded`
}

function hasStatus(row: Scan, status: string): boolean {
  if (status === 'flagged') return row.flags.length > 0
  if (status === 'excluded') return row.excluded !== null
  if (status === 'included') return row.excluded === null
  return status === 'all' || row.status === status
}

/** Whether a row meets every part of `sub-01, sex = f, age > 60`: conditions on columns, else text in any cell. */
function matches(row: Scan, filter: string, columns: Column[]): boolean {
  return filter.split(',').map(part => part.trim()).filter(Boolean).every(part => {
    const [, name, sign, wanted] = part.match(/^(.+?)\s*(<=|>=|<|>|=)\s*(.+)$/) ?? []
    const column = columns.find(one => one.name === name)
    if (column && sign && wanted) return holds(row.values[column.name] ?? null, sign, wanted)
    const texts = [row.scan, row.excluded, ...row.flags, ...Object.values(row.values)]
    return texts.some(text => typeof text === 'string' && text.toLowerCase().includes(part.toLowerCase()))
  })
}

function holds(value: Value, sign: string, wanted: string): boolean {
  if (value === null) return false
  if (sign === '=') return typeof value === 'number' ? value === Number(wanted) : String(value) === wanted
  const difference = Number(value) - Number(wanted)
  return sign === '<' ? difference < 0 : sign === '>' ? difference > 0 : sign === '<=' ? difference <= 0 : difference >= 0
}
