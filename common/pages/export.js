// Results as files: JSON lines as `python -m sim run --json` has them, COCO's keypoints, CSV.
import { save } from "/page.js";

/** COCO's person keypoints with scores, as its tools read them. */
export function coco(results, { keypoints, edges, threshold }) {
  const annotations = [];
  results.forEach((entry, image) => {
    for (const pose of entry.poses) {
      const seen = pose.keypoints.filter(point => 100 * point.score >= threshold);
      const xs = seen.map(point => point.x), ys = seen.map(point => point.y);
      const box = seen.length ? [Math.min(...xs), Math.min(...ys), Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys)] : [0, 0, 0, 0];
      annotations.push({
        id: annotations.length + 1, image_id: image + 1, category_id: 1, iscrowd: 0, score: pose.score,
        bbox: box, area: box[2] * box[3], num_keypoints: seen.length,
        keypoints: pose.keypoints.flatMap(point => 100 * point.score >= threshold ? [point.x, point.y, 2] : [0, 0, 0]),
      });
    }
  });
  return {
    images: results.map((entry, index) => ({
      id: index + 1, file_name: entry.frame === undefined ? entry.image : `${entry.image}#${entry.frame}`,
      width: entry.size[0], height: entry.size[1],
    })),
    annotations,
    categories: [{
      id: 1, name: "person", supercategory: "person",
      keypoints: keypoints.map(name => name.replace(/[A-Z]/g, letter => "_" + letter.toLowerCase())),
      skeleton: edges.map(([a, b]) => [a + 1, b + 1]),
    }],
  };
}

/** A line for each keypoint; text that a spreadsheet would take for a formula is quoted away. */
export function csv(results) {
  const text = value => `"${String(value).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
  const rows = ["image,frame,time_ms,network,person,pose_score,keypoint,x_px,y_px,score"];
  for (const entry of results) for (const pose of entry.poses) for (const point of pose.keypoints) {
    rows.push([text(entry.image), entry.frame ?? "", entry.time_ms ?? "", text(entry.network ?? ""), pose.id, pose.score, point.name, point.x, point.y, point.score].join(","));
  }
  return rows.join("\r\n") + "\r\n";
}

/** Links that save the results, made when they are clicked; those made before are let go. */
export function downloads(place, results, choices, video) {
  const forms = {
    "JSON lines": ["poses.jsonl", "application/x-ndjson", () => results.map(entry => JSON.stringify(entry) + "\n").join("")],
    "COCO JSON": ["poses-coco.json", "application/json", () => JSON.stringify(coco(results, choices))],
    "CSV": ["poses.csv", "text/csv", () => csv(results)],
  };
  const button = (label, name, blob) => {
    const made = Object.assign(document.createElement("button"), { textContent: label });
    made.addEventListener("click", () => save(blob(), name));
    return made;
  };
  place.replaceChildren(
    ...Object.entries(forms).map(([label, [name, type, make]]) => button(label, name, () => new Blob([make()], { type }))),
    ...(video ? [button("Video", "poses.webm", () => video)] : []));
}
