// How far behind live a picture may be, and what is done about it. Plain numbers in and out.

export const BEHIND_S_MAX = 1.2;
const BEHIND_S_WISH = 0.35;
const JUMP_TO_S = 0.12;
const CATCH_UP_RATE = 1.08;

// What to do at `position` when `start` to `end` are buffered: where to jump (null: don't), and how fast to play.
export function decide(position, start, end) {
  const behind = end - position;
  if (position < start || behind > BEHIND_S_MAX || behind < 0) {
    return { jumpTo: Math.max(start, end - JUMP_TO_S), rate: 1 };
  }
  return { jumpTo: null, rate: behind > BEHIND_S_WISH ? CATCH_UP_RATE : 1 };
}
