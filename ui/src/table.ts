// A sortable table that draws only the rows in view, so that thousands scroll smoothly.
import type { Value } from './api'
import { type Child, fill, h } from './dom'

export interface TableColumn<R> {
  name: string
  title?: string // explains the heading
  numeric?: boolean
  width: number // characters
  sort?: (row: R) => Value
  cell: (row: R) => Child
}

const SPARE = 12 // rows drawn beyond either edge

export class VirtualTable<R> {
  readonly element: HTMLElement
  private readonly head = h('tr')
  private readonly body = h('tbody')
  private readonly table: HTMLTableElement
  private readonly cols = h('colgroup')
  private columns: TableColumn<R>[] = []
  private rows: R[] = []
  private sorted: R[] = []
  private drawn = ''

  constructor(caption: string, private readonly rowHeight: number, private by = '', private falling = false) {
    this.table = h('table', { class: 'grid' },
      h('caption', { class: 'unseen' }, caption), this.cols, h('thead', {}, this.head), this.body)
    this.element = h('div', { class: 'scroller', tabindex: 0, role: 'region', 'aria-label': caption }, this.table)
    this.table.style.setProperty('--row', `${rowHeight}px`)
    let waiting = 0
    const redraw = () => {
      waiting ||= requestAnimationFrame(() => {
        waiting = 0
        this.draw()
      })
    }
    this.element.addEventListener('scroll', redraw, { passive: true })
    new ResizeObserver(redraw).observe(this.element)
  }

  /** Rows in the order shown. */
  get order(): R[] {
    return this.sorted
  }

  get sorting(): [by: string, falling: boolean] {
    return [this.by, this.falling]
  }

  setColumns(columns: TableColumn<R>[]): void {
    this.columns = columns
    fill(this.cols, ...columns.map(column => {
      const col = h('col')
      col.style.width = `calc(${column.width}ch + 1.3rem)`
      return col
    }))
    this.table.style.width = `max(100%, calc(${columns.reduce((sum, one) => sum + one.width, 0)}ch + ${columns.length * 1.3}rem))`
    this.sortBy(this.by, this.falling)
  }

  setRows(rows: R[]): void {
    this.rows = rows
    this.element.scrollTop = 0
    this.sortBy(this.by, this.falling)
  }

  private sortBy(name: string, falling: boolean): void {
    ;[this.by, this.falling] = [name, falling]
    const sort = this.columns.find(column => column.name === name)?.sort
    this.sorted = sort ? [...this.rows].sort((a, b) => compared(sort(a), sort(b), falling)) : this.rows
    fill(this.head, ...this.columns.map(column => this.heading(column)))
    this.table.setAttribute('aria-rowcount', String(this.sorted.length + 1))
    this.drawn = ''
    this.draw()
  }

  private heading(column: TableColumn<R>): HTMLElement {
    const chosen = column.name === this.by
    const label = h('span', {}, column.name)
    return h('th', {
      scope: 'col', class: column.numeric ? 'num' : '', title: column.title,
      'aria-sort': chosen ? (this.falling ? 'descending' : 'ascending') : null,
    }, column.sort ? h('button', {
      type: 'button',
      onclick: () => {
        this.sortBy(column.name, chosen && !this.falling)
        this.head.querySelector<HTMLElement>('[aria-sort] button')?.focus()
      },
    }, label) : label)
  }

  private draw(): void {
    const height = this.element.clientHeight || 600
    const first = Math.max(0, Math.floor(this.element.scrollTop / this.rowHeight) - SPARE)
    const last = Math.min(this.sorted.length, first + Math.ceil(height / this.rowHeight) + 2 * SPARE)
    if (this.drawn === `${first} ${last}`) return
    this.drawn = `${first} ${last}`
    const rows = this.sorted.slice(first, last).map((row, at) =>
      h('tr', { 'aria-rowindex': first + at + 2 }, ...this.columns.map((column, where) =>
        h(where ? 'td' : 'th', { class: column.numeric ? 'num' : '', scope: where ? null : 'row' }, column.cell(row)))))
    fill(this.body, this.space(first), ...rows, this.space(this.sorted.length - last))
  }

  /** What the rows that are not drawn would take. */
  private space(rows: number): HTMLElement | null {
    if (rows <= 0) return null
    const row = h('tr', { 'aria-hidden': 'true', class: 'space' }, h('td', { colspan: this.columns.length }))
    row.style.height = `${rows * this.rowHeight}px`
    return row
  }
}

/** What is missing comes last in both directions. */
function compared(a: Value, b: Value, falling: boolean): number {
  if (a === null || a === '' || b === null || b === '') return Number(a === null || a === '') - Number(b === null || b === '')
  const order = typeof a === 'number' && typeof b === 'number'
    ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true })
  return falling ? -order : order
}
