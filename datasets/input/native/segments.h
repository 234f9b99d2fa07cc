// The part of a JPEG that a window needs, cut out by its restart markers; for jpeg_windows.cc.
//
// An encoder may divide the compressed data into segments of so many blocks, with a restart
// marker between two of them (ITU-T T.81, B.1.1.2 and E.1.4). Each decodes alone. A search for
// the markers is far faster than the decoding of what is above and beside the window, which
// libjpeg needs to find where the window begins. The result is a smaller JPEG.

#ifndef DATASETS_INPUT_NATIVE_SEGMENTS_H_
#define DATASETS_INPUT_NATIVE_SEGMENTS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace segments {

constexpr int kBlock = 8;  // pixels

struct Window {
  int top, left, height, width;  // in pixels
};

// What the headers say, up to the compressed data.
struct Headers {
  int height = 0, width = 0;            // of the image, in pixels
  int unit_height = 0, unit_width = 0;  // of the blocks that are coded together (MCU), in pixels
  int interval = 0;                     // units from one restart marker to the next
  int components = 0;
  size_t size_at = 0;  // where height and width stand, two bytes each
  size_t scan_at = 0;  // where the compressed data begin
};

inline int Two(const uint8_t* at) { return at[0] << 8 | at[1]; }

inline bool ReadFrame(const uint8_t* body, int length, Headers* headers) {
  if (length < 6 || body[0] != 8) return false;
  headers->height = Two(body + 1);
  headers->width = Two(body + 3);
  headers->components = body[5];
  if (length != 6 + 3 * headers->components) return false;
  int tall = 0, wide = 0;
  for (int i = 0; i < headers->components; ++i) {
    const int sampling = body[7 + 3 * i];
    wide = std::max(wide, sampling >> 4);
    tall = std::max(tall, sampling & 15);
  }
  // One component alone is coded block by block, whatever its sampling says.
  if (headers->components == 1 && (tall != 1 || wide != 1)) return false;
  headers->unit_height = tall * kBlock;
  headers->unit_width = wide * kBlock;
  return headers->height > 0 && headers->width > 0 && tall > 0 && wide > 0;
}

// False for anything but one scan with restart markers, not progressive, of all components.
inline bool ReadHeaders(const uint8_t* data, size_t size, Headers* headers) {
  size_t at = 2;
  if (size < at || Two(data) != 0xFFD8) return false;
  while (size - at >= 4 && data[at] == 0xFF) {
    const int marker = data[at + 1], length = Two(data + at + 2) - 2;
    if (length < 0 || static_cast<size_t>(length) > size - at - 4) return false;
    const uint8_t* body = data + at + 4;
    at += 4 + length;
    if (marker == 0xC0 || marker == 0xC1) {  // the frame, of Huffman codes in one pass
      if (headers->size_at || !ReadFrame(body, length, headers)) return false;
      headers->size_at = body + 1 - data;
    } else if (marker == 0xDD) {
      if (length != 2) return false;
      headers->interval = Two(body);
    } else if (marker == 0xDA) {
      headers->scan_at = at;
      return headers->size_at && headers->interval && length > 0 &&
             body[0] == headers->components;
    } else if (marker != 0xC4 && marker != 0xDB && marker != 0xFE && (marker & 0xF0) != 0xE0) {
      return false;  // neither tables, a comment nor an application's
    }
  }
  return false;
}

// Where the segment from `begin` on ends: at a marker. `end` where there is none.
inline const uint8_t* EndOfSegment(const uint8_t* begin, const uint8_t* end) {
  while (begin < end) {
    const void* found = std::memchr(begin, 0xFF, end - begin);
    if (!found) return end;
    begin = static_cast<const uint8_t*>(found);
    if (end - begin < 2) return end;
    if (begin[1] != 0 && begin[1] != 0xFF) return begin;
    begin += begin[1] ? 1 : 2;  // a byte that fills, or 0xFF as it is written in the data
  }
  return end;
}

// Cuts the segments that `window` touches out of `data`, into `part`. False where that is not
// possible, or leaves nothing out. `margin` is a number of rows of pixels, above the window and
// below, that decoding it looks at. `top` and `left` become the place of the part in the image.
inline bool Cut(const uint8_t* data, size_t size, const Window& window, int margin,
                std::vector<uint8_t>* part, int* top, int* left) {
  Headers headers;
  if (!ReadHeaders(data, size, &headers)) return false;
  if (window.top < 0 || window.left < 0 || window.height < 1 || window.width < 1 ||
      window.height > headers.height - window.top || window.width > headers.width - window.left) {
    return false;
  }
  const int units = (headers.width + headers.unit_width - 1) / headers.unit_width;
  const bool several = units % headers.interval == 0;  // segments beside each other, or one
  if (!several && headers.interval % units) return false;
  const int beside = several ? units / headers.interval : 1;
  const int wide = units / beside * headers.unit_width;  // of a segment
  const int tall = (several ? 1 : headers.interval / units) * headers.unit_height;
  const int bottom = std::min(window.top + window.height + margin, headers.height) - 1;
  const int first_row = std::max(window.top - margin, 0) / tall, last_row = bottom / tall;
  const int first = window.left / wide, last = (window.left + window.width - 1) / wide;
  if (first_row == 0 && first == 0 && last == beside - 1) return false;  // those below are not read

  part->assign(data, data + headers.scan_at);
  const int above = first_row * tall, before = first * wide;
  const int height = std::min((last_row + 1) * tall, headers.height) - above;
  const int width = std::min((last + 1) * wide, headers.width) - before;
  uint8_t* sides = part->data() + headers.size_at;
  sides[0] = height >> 8;
  sides[1] = height & 0xFF;
  sides[2] = width >> 8;
  sides[3] = width & 0xFF;

  const uint8_t *begin = data + headers.scan_at, *end = data + size;
  int taken = 0;
  for (int row = 0; row <= last_row; ++row) {
    for (int column = 0; column < beside; ++column) {
      const uint8_t* stop = EndOfSegment(begin, end);
      if (stop == end) return false;
      const int marker = stop[1];
      if (row >= first_row && column >= first && column <= last) {
        if (taken) {
          part->push_back(0xFF);
          part->push_back(0xD0 + (taken - 1) % 8);
        }
        ++taken;
        part->insert(part->end(), begin, stop);
      }
      if (row == last_row && column == last) {
        part->push_back(0xFF);
        part->push_back(0xD9);
        *top = above;
        *left = before;
        return true;
      }
      // The markers are numbered from 0 to 7, again and again; one that is missing is damage.
      if (marker != 0xD0 + (row * beside + column) % 8) return false;
      begin = stop + 2;
    }
  }
  return false;
}

}  // namespace segments

#endif  // DATASETS_INPUT_NATIVE_SEGMENTS_H_
