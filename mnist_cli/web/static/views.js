// The views of the page: one file each, loaded when its tab is first opened.
//
// A file exports `mount(panel, page)`, called once, which fills the panel and follows the page's
// events. What it returns may have `show()` and `hide()`, called as its tab opens and closes.
// `hidesBoard` gives a view the whole width.

export const VIEWS = [
  { id: 'answers', title: 'Answers', load: () => import('./answers.js') },
  { id: 'inside', title: 'Look inside', load: () => import('./inside.js') },
  { id: 'map', title: 'Map', load: () => import('./digit_map.js') },
  { id: 'live', title: 'Train live', load: () => import('./live.js') },
  { id: 'compare', title: 'Compare', load: () => import('./compare.js'), hidesBoard: true },
];
