// Wheel, drag and pinch on the timeline's rows, as calls: `zoom(factor, share)`, `pan(share)`, `click(share, row)`,
// `select(fromShare, toShare, row)` while Shift is held.

const CLICK_PX = 5;
const WHEEL_STEP = 0.0018;

export function listen(box, on) {
  const pointers = new Map();
  let moved = 0;
  let selectFrom = null;

  // Rows have their bars in an element of class `bar`; all are equally wide and begin at the same place.
  const share = (x) => {
    const rect = box.querySelector('.bar').getBoundingClientRect();
    return (x - rect.left) / rect.width;
  };
  const width = () => box.querySelector('.bar').getBoundingClientRect().width;
  const rowOf = (event) => event.target.closest('[data-stream]')?.dataset.stream;

  function wheel(event) {
    if (!event.target.closest('.bar')) return;
    event.preventDefault();
    const isSideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
    const px = event.deltaMode === 1 ? 24 : 1;
    if (isSideways) on.pan(((event.deltaX || event.deltaY) * px) / width());
    else on.zoom(Math.exp(event.deltaY * px * WHEEL_STEP), share(event.clientX));
  }
  function down(event) {
    if (event.button !== 0 || !event.target.closest('.bar')) return;
    pointers.set(event.pointerId, event.clientX);
    moved = pointers.size > 1 ? CLICK_PX : 0;
    selectFrom = event.shiftKey ? { share: share(event.clientX), row: rowOf(event) } : null;
  }
  function move(event) {
    const before = pointers.get(event.pointerId);
    if (before === undefined) {
      if (event.target.closest?.('.bar')) on.hover(share(event.clientX), rowOf(event), event.clientX);
      return;
    }
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, x]) => x);
    pointers.set(event.pointerId, event.clientX);
    moved += Math.abs(event.clientX - before);
    if (others.length > 0) {
      const [other] = others;
      const apart = Math.abs(event.clientX - other);
      if (apart > 8) on.zoom(Math.abs(before - other) / apart, share((event.clientX + other) / 2));
    } else if (selectFrom) {
      on.select(selectFrom.share, share(event.clientX), selectFrom.row);
    } else if (moved >= CLICK_PX) {
      box.setPointerCapture(event.pointerId);
      on.pan((before - event.clientX) / width());
    }
  }
  function up(event) {
    if (!pointers.delete(event.pointerId) || pointers.size > 0) return;
    if (moved < CLICK_PX && event.type === 'pointerup') on.click(share(event.clientX), rowOf(event));
  }
  const leave = () => on.hover(null);

  box.addEventListener('wheel', wheel, { passive: false });
  box.addEventListener('pointerdown', down);
  box.addEventListener('pointermove', move);
  box.addEventListener('pointerup', up);
  box.addEventListener('pointercancel', up);
  box.addEventListener('pointerleave', leave);
  return () => {
    box.removeEventListener('wheel', wheel);
    box.removeEventListener('pointerdown', down);
    box.removeEventListener('pointermove', move);
    box.removeEventListener('pointerup', up);
    box.removeEventListener('pointercancel', up);
    box.removeEventListener('pointerleave', leave);
  };
}
