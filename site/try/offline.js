// Keeps what the page has loaded, so that it works again without a network. `make site` writes the version.

const MINE = "omnipersona-try-", VERSION = `${MINE}development`;

// With these two headers a page may use several threads; it gets them when it is opened the second time.
const ISOLATED = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

function isolated(answer) {
  const headers = new Headers(answer.headers);
  for (const [name, value] of Object.entries(ISOLATED)) headers.set(name, value);
  return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers });
}

async function answer(request) {
  const kept = await caches.open(VERSION), known = await kept.match(request, { ignoreSearch: true });
  if (known) return isolated(known);
  const fresh = await fetch(request);
  if (fresh.ok) await kept.put(request, fresh.clone());
  return isolated(fresh);
}

self.addEventListener("install", (e) => e.waitUntil(self.skipWaiting()));
self.addEventListener("activate", (e) => {
  const forget = async () => {
    for (const name of await caches.keys()) if (name.startsWith(MINE) && name !== VERSION) await caches.delete(name);
    await self.clients.claim();
  };
  e.waitUntil(forget());
});
self.addEventListener("fetch", (e) => {
  const here = new URL("./", self.location.href).href;
  if (e.request.method === "GET" && e.request.url.startsWith(here)) e.respondWith(answer(e.request));
});
