// Two TensorFlow ops on whole batches of JPEGs, for the input pipeline's speed.
//
// JpegSizes reads heights and widths. DecodeWindows decodes a window of each image,
// resizes it bilinearly and mirrors it, from the bytes to the batch in one pass: rows
// are blended as libjpeg-turbo delivers them, the rows above the window are skipped
// and those below are never read. Built and loaded by datasets/fused_jpeg.py.

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

extern "C" {
#include "jpeglib.h"

#include "jerror.h"
}

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::tstring;
using tensorflow::shape_inference::InferenceContext;
namespace errors = tensorflow::errors;

constexpr int kWindow = 5;  // top, left, height, width, mirrored (0 or 1)
constexpr int kChannels = 3;
// libjpeg delivers RGBX: four bytes a pixel fill a vector.
constexpr int kLanes = 4;

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint8_t Byte4 __attribute__((vector_size(4)));

// A copy for newer x86 processors, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=haswell", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

// libjpeg ends by calling error_exit, which must not return.
struct Failure {
  jpeg_error_mgr manager;
  jmp_buf jump;
  bool truncated;
  char message[JMSG_LENGTH_MAX];
};

void Fail(j_common_ptr info) {
  Failure* failure = reinterpret_cast<Failure*>(info->err);
  (*info->err->format_message)(info, failure->message);
  longjmp(failure->jump, 1);
}

// libjpeg goes on with grey where the data end too early; that is an error here.
void Note(j_common_ptr info, int level) {
  if (level >= 0) return;
  info->err->num_warnings++;
  if (info->err->msg_code == JWRN_JPEG_EOF) {
    reinterpret_cast<Failure*>(info->err)->truncated = true;
  }
}

// Where an output row or column is read: between `first` and `second`, `weight` of the latter.
struct Tap {
  int first;
  int second;
  float weight;
};

// Half-pixel centres, no antialiasing: what tf.image.resize does. `begin` and `extent` are
// the window in pixels of the decoded image, `limit` the last row or column it may read.
void FillTaps(int count, float begin, float extent, int lowest, int limit,
              std::vector<Tap>* taps) {
  taps->resize(count);
  const float scale = extent / count;
  for (int i = 0; i < count; ++i) {
    const float at = std::max(begin + (i + 0.5f) * scale - 0.5f, static_cast<float>(lowest));
    const int first = std::min(static_cast<int>(at), limit);
    (*taps)[i] = {first, std::min(first + 1, limit), std::min(at - first, 1.0f)};
  }
}

FOR_EACH_PROCESSOR
void ToFloats(const uint8_t* __restrict row, int values, float* __restrict out) {
  for (int i = 0; i < values; ++i) out[i] = row[i];
}

FOR_EACH_PROCESSOR
void BlendRows(const float* __restrict first, const float* __restrict second, float weight,
               int values, float* __restrict out) {
  for (int i = 0; i < values; ++i) out[i] = first[i] + (second[i] - first[i]) * weight;
}

// Rounds four floats from 0 to 255 to bytes.
inline int32_t ToBytes(Float4 value) {
  value += 0.5f;
#ifdef __SSE2__
  const __m128i whole = _mm_cvttps_epi32(reinterpret_cast<__m128>(value));
  const __m128i half = _mm_packs_epi32(whole, whole);
  return _mm_cvtsi128_si32(_mm_packus_epi16(half, half));
#else
  const Byte4 bytes = __builtin_convertvector(__builtin_convertvector(value, Int4), Byte4);
  int32_t packed;
  std::memcpy(&packed, &bytes, sizeof(packed));
  return packed;
#endif
}

// Resizes a row of floats across and rounds it to RGB bytes. Writes one byte past its end.
void BlendColumns(const float* row, const Tap* taps, int width, uint8_t* out) {
  for (int i = 0; i < width; ++i) {
    Float4 a, b;
    std::memcpy(&a, row + taps[i].first, sizeof(a));
    std::memcpy(&b, row + taps[i].second, sizeof(b));
    const int32_t bytes = ToBytes(a + (b - a) * taps[i].weight);
    std::memcpy(out + i * kChannels, &bytes, sizeof(bytes));
  }
}

class Decoder {
 public:
  // Fails where libjpeg is not the one of jpeglib.h; then nothing but `created()` and
  // `message()` may be called.
  Decoder() {
    info_.err = jpeg_std_error(&failure_.manager);
    failure_.manager.error_exit = Fail;
    failure_.manager.emit_message = Note;
    failure_.message[0] = 0;
    created_ = false;
    if (setjmp(failure_.jump)) return;
    jpeg_create_decompress(&info_);
    created_ = true;
  }
  ~Decoder() {
    if (created_) jpeg_destroy_decompress(&info_);
  }

  // Decodes `window` of the image, resized to height x width, into `out`. Returns whether it
  // could; `message()` tells why not.
  bool Decode(const tstring& data, const int32_t* window, int height, int width, bool exact,
              bool scaled, uint8_t* out) {
    failure_.truncated = false;
    failure_.message[0] = 0;
    if (setjmp(failure_.jump)) {
      jpeg_abort_decompress(&info_);
      return false;
    }
    Read(data);
    const int top = window[0], left = window[1], rows = window[2], columns = window[3];
    const int tall = info_.image_height, wide = info_.image_width;
    if (top < 0 || left < 0 || rows < 1 || columns < 1 || rows > tall - top ||
        columns > wide - left) {
      return Refuse("the window lies outside the image");
    }
    const bool cmyk = info_.num_components == 4;
    info_.out_color_space = cmyk ? JCS_CMYK : JCS_EXT_RGBX;
    info_.dct_method = exact ? JDCT_ISLOW : JDCT_IFAST;
    info_.do_fancy_upsampling = exact ? TRUE : FALSE;
    int ratio = 1;
    if (scaled) {
      while (ratio < 8 && rows >= 2 * ratio * height && columns >= 2 * ratio * width) ratio *= 2;
    }
    info_.scale_num = 1;
    info_.scale_denom = ratio;
    jpeg_start_decompress(&info_);

    // The window in the decoded image, and the whole pixels that it touches.
    const float scale = 1.0f / ratio;
    const int top_row = top / ratio, left_column = left / ratio;
    const int last_row =
        std::min<int>((top + rows + ratio - 1) / ratio, info_.output_height) - 1;
    const int last_column =
        std::min<int>((left + columns + ratio - 1) / ratio, info_.output_width) - 1;
    JDIMENSION begin = left_column;
    JDIMENSION across = last_column - left_column + 1;
    if (across < info_.output_width) jpeg_crop_scanline(&info_, &begin, &across);
    FillTaps(height, top * scale, rows * scale, top_row, last_row, &down_);
    FillTaps(width, left * scale, columns * scale, left_column, last_column, &right_);
    for (Tap& tap : right_) {
      tap.first = (tap.first - begin) * kLanes;
      tap.second = (tap.second - begin) * kLanes;
    }
    if (window[4]) std::reverse(right_.begin(), right_.end());

    const int values = across * kLanes;
    // The longest row is an aligned one, which may be wider than asked for.
    decoded_.resize(values);
    lines_[0].resize(values);
    lines_[1].resize(values);
    blended_.resize(values);
    line_.resize(width * kChannels + 1);
    if (top_row > 0) jpeg_skip_scanlines(&info_, top_row);
    int read = top_row - 1;  // the last row that was read
    for (int y = 0; y < height; ++y) {
      while (read < down_[y].second) {
        ++read;
        uint8_t* target = decoded_.data();
        if (jpeg_read_scanlines(&info_, &target, 1) != 1) return Refuse("too few rows");
        if (cmyk) ToRgb(target, across);
        ToFloats(target, values, lines_[read & 1].data());
      }
      BlendRows(lines_[down_[y].first & 1].data(), lines_[down_[y].second & 1].data(),
                down_[y].weight, values, blended_.data());
      BlendColumns(blended_.data(), right_.data(), width, line_.data());
      std::memcpy(out + static_cast<size_t>(y) * width * kChannels, line_.data(),
                  static_cast<size_t>(width) * kChannels);
    }
    jpeg_abort_decompress(&info_);
    if (failure_.truncated) return Refuse("its data end too early");
    return true;
  }

  bool Size(const tstring& data, int32_t* height, int32_t* width) {
    failure_.truncated = false;
    failure_.message[0] = 0;
    if (setjmp(failure_.jump)) {
      jpeg_abort_decompress(&info_);
      return false;
    }
    Read(data);
    *height = info_.image_height;
    *width = info_.image_width;
    jpeg_abort_decompress(&info_);
    return true;
  }

  bool created() const { return created_; }

  const char* message() const { return failure_.message; }

 private:
  void Read(const tstring& data) {
    jpeg_mem_src(&info_, reinterpret_cast<const unsigned char*>(data.data()), data.size());
    jpeg_read_header(&info_, TRUE);
  }

  bool Refuse(const char* why) {
    std::snprintf(failure_.message, sizeof(failure_.message), "%s", why);
    jpeg_abort_decompress(&info_);
    return false;
  }

  // Adobe stores CMYK inverted; as TensorFlow's own decoder does it.
  void ToRgb(uint8_t* row, int pixels) const {
    for (int i = 0; i < pixels; ++i, row += kLanes) {
      const int k = info_.saw_Adobe_marker ? row[3] : 255 - row[3];
      for (int c = 0; c < kChannels; ++c) {
        row[c] = (info_.saw_Adobe_marker ? row[c] : 255 - row[c]) * k / 255;
      }
    }
  }

  jpeg_decompress_struct info_;
  Failure failure_;
  bool created_;
  // Members, since a jump out of libjpeg would skip the destructors of locals.
  std::vector<Tap> down_, right_;
  std::vector<uint8_t> decoded_, line_;
  std::vector<float> lines_[2], blended_;
};

class JpegSizesOp : public OpKernel {
 public:
  explicit JpegSizesOp(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override {
    const auto encoded = context->input(0).flat<tstring>();
    const int64_t count = encoded.size();
    Tensor* sizes = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({count, 2}), &sizes));
    int32_t* out = sizes->flat<int32_t>().data();
    Decoder decoder;
    OP_REQUIRES(context, decoder.created(), errors::FailedPrecondition(decoder.message()));
    for (int64_t i = 0; i < count; ++i) {
      OP_REQUIRES(context, decoder.Size(encoded(i), out + 2 * i, out + 2 * i + 1),
                  errors::InvalidArgument("JPEG ", i, " of the batch: ", decoder.message()));
    }
  }
};

class DecodeWindowsOp : public OpKernel {
 public:
  explicit DecodeWindowsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("height", &height_));
    OP_REQUIRES_OK(context, context->GetAttr("width", &width_));
    OP_REQUIRES_OK(context, context->GetAttr("exact", &exact_));
    OP_REQUIRES_OK(context, context->GetAttr("scaled", &scaled_));
  }

  void Compute(OpKernelContext* context) override {
    const auto encoded = context->input(0).flat<tstring>();
    const Tensor& windows = context->input(1);
    const int64_t count = encoded.size();
    OP_REQUIRES(context,
                windows.dims() == 2 && windows.dim_size(0) == count &&
                    windows.dim_size(1) == kWindow,
                errors::InvalidArgument("windows must be [", count, ", ", kWindow, "], received ",
                                        windows.shape().DebugString()));
    Tensor* images = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(
                       0, TensorShape({count, height_, width_, kChannels}), &images));
    uint8_t* out = images->flat<uint8_t>().data();
    const int32_t* window = windows.flat<int32_t>().data();
    const size_t image = static_cast<size_t>(height_) * width_ * kChannels;
    Decoder decoder;
    OP_REQUIRES(context, decoder.created(), errors::FailedPrecondition(decoder.message()));
    for (int64_t i = 0; i < count; ++i) {
      OP_REQUIRES(context,
                  decoder.Decode(encoded(i), window + i * kWindow, height_, width_, exact_,
                                 scaled_, out + i * image),
                  errors::InvalidArgument("JPEG ", i, " of the batch: ", decoder.message()));
    }
  }

 private:
  int height_, width_;
  bool exact_, scaled_;
};

REGISTER_OP("JpegSizes")
    .Input("encoded: string")
    .Output("sizes: int32")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Matrix(c->Dim(c->input(0), 0), 2));
      return absl::OkStatus();
    });

REGISTER_OP("DecodeWindows")
    .Input("encoded: string")
    .Input("windows: int32")
    .Attr("height: int >= 1")
    .Attr("width: int >= 1")
    .Attr("exact: bool = false")
    .Attr("scaled: bool = true")
    .Output("images: uint8")
    .SetShapeFn([](InferenceContext* c) {
      int height, width;
      TF_RETURN_IF_ERROR(c->GetAttr("height", &height));
      TF_RETURN_IF_ERROR(c->GetAttr("width", &width));
      c->set_output(0, c->MakeShape({c->Dim(c->input(0), 0), height, width, kChannels}));
      return absl::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("JpegSizes").Device(tensorflow::DEVICE_CPU), JpegSizesOp);
REGISTER_KERNEL_BUILDER(Name("DecodeWindows").Device(tensorflow::DEVICE_CPU), DecodeWindowsOp);

}  // namespace
