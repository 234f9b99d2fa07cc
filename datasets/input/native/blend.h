// A bilinear resize of rows of bytes in fixed point, for jpeg_windows.cc.
//
// A row of the result is blended from two rows of the image, then across. Between the two
// steps a value has 16 bits, 8 of them a fraction. A weight down has 8 bits and a weight
// across 14, so a value is less than 1.02 from the exact one: 255 / 512 for each weight
// down, 255 / 2^15 across, and 1/2 for rounding. These are whole numbers: every
// processor gives the same bits.

#ifndef DATASETS_INPUT_NATIVE_BLEND_H_
#define DATASETS_INPUT_NATIVE_BLEND_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace blend {

constexpr int kChannels = 3;
constexpr int kLanes = 4;  // libjpeg delivers RGBX: four bytes a pixel fill a vector
constexpr int kDown = 8;   // bits of a weight between two rows
constexpr int kAcross = 14;  // bits of a weight between two columns: 16 with a sign hold it
// From an unsigned value of 16 bits to a signed one, which the processors multiply faster.
constexpr int kOffset = 1 << 15;
constexpr int kShift = kDown + kAcross;
// Takes the offset away again, and rounds.
constexpr int32_t kBias = (kOffset << kAcross) + (1 << (kShift - 1));
// Bytes behind the end of a line that `columns` may write to, and pixels behind the end of a
// row that it may read.
constexpr int kLineSlack = 4;
constexpr int kRowSlack = 1;

// Where an output row is read: between row `at` and the next, `weight` of 2^kDown of the latter.
struct Row {
  int at;
  int weight;
};

// Where an output column is read: `at` is an index into a row of values. Four times the weights
// of the pixel there and of the next one.
struct Column {
  int at;
  int16_t weights[2 * kLanes];
};

// Calls `take(i, first, weight)` for each of `count` places: `weight` of the pixel behind
// `first`, from 0 to 1. Half-pixel centres, no antialiasing: what tf.image.resize does. `begin`
// and `extent` are the window in pixels of the decoded image; pixels outside `lowest` to
// `highest` are not read. A weight is 0 where there is no next pixel.
template <class Take>
void EachTap(int count, float begin, float extent, int lowest, int highest, Take take) {
  const float scale = extent / count;
  for (int i = 0; i < count; ++i) {
    const float at = std::max(begin + (i + 0.5f) * scale - 0.5f, static_cast<float>(lowest));
    const int first = std::min(static_cast<int>(at), highest);
    take(i, first, first < highest ? at - first : 0.0f);
  }
}

inline int Fixed(float weight, int bits) {
  return static_cast<int>(weight * (1 << bits) + 0.5f);
}

inline void FillRows(int count, float begin, float extent, int lowest, int highest,
                     std::vector<Row>* rows) {
  rows->resize(count);
  EachTap(count, begin, extent, lowest, highest, [&](int i, int first, float weight) {
    (*rows)[i] = {first, Fixed(weight, kDown)};
  });
}

inline void FillColumns(int count, float begin, float extent, int lowest, int highest,
                        bool mirrored, std::vector<Column>* columns) {
  columns->resize(count);
  EachTap(count, begin, extent, lowest, highest, [&](int i, int first, float weight) {
    Column& column = (*columns)[mirrored ? count - 1 - i : i];
    column.at = (first - lowest) * kLanes;
    const int16_t next = Fixed(weight, kAcross);
    for (int lane = 0; lane < kLanes; ++lane) {
      column.weights[2 * lane] = (1 << kAcross) - next;
      column.weights[2 * lane + 1] = next;
    }
  });
}

// Compiled once for every processor and once for newer ones.
inline __attribute__((always_inline)) void Rows(const uint8_t* __restrict first,
                                                const uint8_t* __restrict second, int weight,
                                                int values, int16_t* __restrict out) {
  const uint16_t after = weight, before = (1 << kDown) - weight;
  for (int i = 0; i < values; ++i) {
    out[i] = static_cast<uint16_t>(first[i] * before + second[i] * after - kOffset);
  }
}

inline void RowsPlain(const uint8_t* first, const uint8_t* second, int weight, int values,
                      int16_t* out) {
  Rows(first, second, weight, values, out);
}

typedef int16_t Short4 __attribute__((vector_size(8)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint8_t Byte4 __attribute__((vector_size(4)));

// Resizes a row across, to RGB bytes: the compiler's vectors, which it fits to any processor.
inline void ColumnsPlain(const int16_t* row, const Column* columns, int width, uint8_t* out) {
  for (int i = 0; i < width; ++i, out += kChannels) {
    const Column& column = columns[i];
    Short4 one, next;
    std::memcpy(&one, row + column.at, sizeof(one));
    std::memcpy(&next, row + column.at + kLanes, sizeof(next));
    const int32_t before = column.weights[0], after = column.weights[1];
    const Int4 sum = __builtin_convertvector(one, Int4) * before +
                     __builtin_convertvector(next, Int4) * after + kBias;
    const Byte4 bytes = __builtin_convertvector(sum >> kShift, Byte4);
    std::memcpy(out, &bytes, sizeof(bytes));
  }
}

#ifdef __x86_64__
__attribute__((target("avx2"))) inline void RowsAvx2(const uint8_t* first, const uint8_t* second,
                                                     int weight, int values, int16_t* out) {
  Rows(first, second, weight, values, out);
}

__attribute__((target("avx2"))) inline __m256i Both(const int16_t* low, const int16_t* high) {
  const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(low));
  const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(high));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
}

// Two pixels, one in each half of a vector, as 32-bit values from 0 to 255.
__attribute__((target("avx2"))) inline __m256i TwoPixels(const int16_t* row, const Column& low,
                                                         const Column& high) {
  // A channel of a pixel beside the same channel of the next.
  const __m256i pairs = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
  const __m256i values = _mm256_shuffle_epi8(Both(row + low.at, row + high.at), pairs);
  const __m256i sums = _mm256_madd_epi16(values, Both(low.weights, high.weights));
  return _mm256_srai_epi32(_mm256_add_epi32(sums, _mm256_set1_epi32(kBias)), kShift);
}

__attribute__((target("avx2"))) inline void ColumnsAvx2(const int16_t* row, const Column* columns,
                                                        int width, uint8_t* out) {
  // Three of four bytes of each pixel, to the front of each half.
  const __m256i rgb = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
  int i = 0;
  for (; i + 8 <= width; i += 8, out += 8 * kChannels) {
    const Column* c = columns + i;
    const __m256i even = _mm256_packs_epi32(TwoPixels(row, c[0], c[4]), TwoPixels(row, c[1], c[5]));
    const __m256i odd = _mm256_packs_epi32(TwoPixels(row, c[2], c[6]), TwoPixels(row, c[3], c[7]));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_packus_epi16(even, odd), rgb);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(bytes));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 4 * kChannels),
                     _mm256_extracti128_si256(bytes, 1));
  }
  ColumnsPlain(row, columns + i, width - i, out);
}
#endif

// The two steps, as this processor does them fastest.
struct Steps {
  void (*rows)(const uint8_t* first, const uint8_t* second, int weight, int values, int16_t* out);
  void (*columns)(const int16_t* row, const Column* columns, int width, uint8_t* out);
};

constexpr Steps kPlain = {RowsPlain, ColumnsPlain};

inline Steps ForThisProcessor() {
#ifdef __x86_64__
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) return {RowsAvx2, ColumnsAvx2};
#endif
  return kPlain;
}

}  // namespace blend

#endif  // DATASETS_INPUT_NATIVE_BLEND_H_
