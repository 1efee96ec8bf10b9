"""A local web page that follows a stream of states: figures, skeletons, a picture when there is one."""

from __future__ import annotations

import http.server
import json
import threading
from typing import Any

from host_tools.errors import UserError

PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>%(title)s</title>
<style>body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;background:#10151c;color:#dde4ee}
canvas{background:#000;border:1px solid #334;image-rendering:pixelated;max-width:100%%}
b{font-size:1.5rem;margin-right:.3rem}.f{display:inline-block;margin:0 1.6rem .6rem 0;color:#8fa0b5}
.f b{color:#fff}pre{color:#8fa0b5;max-width:60rem;white-space:pre-wrap}.bad b{color:#ff7b72}</style>
<h1 style="font-size:1.1rem">%(title)s</h1><div id=figures></div>
<canvas id=c width=640 height=480></canvas><pre id=log></pre>
<script>
const bones=%(edges)s,hues=['#00ff00','#ffa000','#00c8ff','#ff3cc8','#ffff00','#7878ff'];
const c=document.getElementById('c'),g=c.getContext('2d');let image=null,pictures=0;
function draw(s){const w=s.width||320,h=s.height||240,z=Math.max(1,Math.floor(640/w));
 if(c.width!=w*z||c.height!=h*z){c.width=w*z;c.height=h*z}
 g.setTransform(z,0,0,z,0,0);g.clearRect(0,0,w,h);if(image)g.drawImage(image,0,0,w,h);
 (s.poses||[]).forEach(p=>{const k=p.keypoints;g.strokeStyle=g.fillStyle=hues[p.id%%6];
  bones.forEach(([a,b])=>{if(k[a]&&k[b]&&Math.min(k[a][2],k[b][2])>=25){
   g.lineWidth=Math.min(k[a][2],k[b][2])>=50?2:1;g.beginPath();g.moveTo(k[a][0],k[a][1]);g.lineTo(k[b][0],k[b][1]);g.stroke()}});
  k.forEach(q=>{if(q[2]>=50){g.beginPath();g.arc(q[0],q[1],2.5,0,7);g.fill()}})});
 document.getElementById('figures').innerHTML=Object.entries(s.figures||{}).map(([n,v])=>
  `<span class="f${/dropped|errors/.test(n)&&v>0?' bad':''}"><b>${v}</b>${n}</span>`).join('');
 document.getElementById('log').textContent=(s.log||[]).join('\\n')}
new EventSource('events').onmessage=e=>{const s=JSON.parse(e.data);
 if(s.pictures!=pictures){pictures=s.pictures;const i=new Image();i.onload=()=>{image=i;draw(s)};
  i.src='picture?'+pictures}
 else draw(s)};
</script></html>
"""


class LivePage:
    """Serves http://127.0.0.1:PORT/ in threads of its own; port 0 takes a free one. UserError when it is taken."""

    def __init__(self, title: str, edges: Any, port: int = 0):
        page = (PAGE % {"title": title, "edges": json.dumps(edges)}).encode()
        self._condition = threading.Condition()
        self._state = b"{}"
        self._version = 0
        self._picture = b""
        self._pictures = 0
        self._closed = False
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/":
                    self._send("text/html; charset=utf-8", page)
                elif self.path.startswith("/picture"):
                    self._send("image/png", owner._picture)
                elif self.path == "/events":
                    self._events()
                else:
                    self.send_error(404)

            def _send(self, kind: str, data: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(data)

            def _events(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                seen = -1
                try:
                    while (state := owner._wait(seen)) is not None:
                        seen, data = state
                        self.wfile.write(b"data: " + data + b"\n\n")
                        self.wfile.flush()
                except OSError:
                    return

            def log_message(self, *_: Any) -> None:
                pass

        try:
            self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise UserError(f"port {port} cannot be used for the web page ({error}); choose another", 2) from None
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def show(self, state: dict[str, Any], picture: bytes | None = None) -> None:
        """New state (width, height, poses, figures, log); `picture` a PNG of the same size, None keeps the last."""
        with self._condition:
            if picture is not None:
                self._picture = picture
                self._pictures += 1
            self._state = json.dumps({**state, "pictures": self._pictures}).encode()
            self._version += 1
            self._condition.notify_all()

    def _wait(self, seen: int) -> tuple[int, bytes] | None:
        """The next state after version `seen`; None when the page is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._version != seen)
            return None if self._closed else (self._version, self._state)

    def close(self) -> None:
        """Stop serving."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._server.shutdown()
        self._server.server_close()
