// Two TensorFlow ops on whole batches of JPEGs, for the input pipeline's speed.
//
// JpegSizes reads heights and widths. DecodeWindows decodes a window of each image, or of the
// image enlarged, resizes it bilinearly and mirrors it, from the bytes to the batch in one pass:
// rows are blended as libjpeg-turbo delivers them (blend.h), the rows above the window are skipped
// and those below are never read. Where the JPEG has restart markers, what is above and beside
// the window is cut out before (segments.h). Built and loaded by datasets/input/fused_jpeg.py.

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

extern "C" {
#include "jpeglib.h"

#include "jerror.h"
}

#include "blend.h"
#include "segments.h"
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
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
namespace errors = tensorflow::errors;

constexpr int kWindow = 5;  // top, left, height, width, mirrored (0 or 1)
// The same, and the height and width of the resized image that the window is of; 0: its own.
constexpr int kWindowOfResized = 7;
using blend::kChannels;
using blend::kLanes;
constexpr int kVector = 64;  // bytes of the largest vector of a processor
constexpr int kRing = 4;  // rows kept: the two that are blended, and those read with them

// Chosen when the library is loaded.
const blend::Steps kFast = blend::ForThisProcessor();

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

struct Options {
  bool exact;   // the decoder of evaluation, instead of the fast one
  bool scaled;  // let libjpeg decode at 1/2, 1/4 or 1/8 where that is enough
  bool plain;   // what runs where there is no AVX2; for tests
};

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

  // Decodes `window` of the image, resized to height x width, into `out`. `resized` is null, or
  // the sides of the image that the window is of, where it is not the one that is stored. Returns
  // whether it could; `message()` tells why not.
  bool Decode(const tstring& data, const int32_t* window, const int32_t* resized, int height,
              int width, const Options& options, uint8_t* out) {
    failure_.truncated = false;
    failure_.message[0] = 0;
    if (setjmp(failure_.jump)) {
      jpeg_abort_decompress(&info_);
      return false;
    }
    int top = window[0], left = window[1], rows = window[2], columns = window[3];
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(data.data());
    // With fine colour, a pixel depends on the row of colours above and below it.
    const int margin = options.exact ? segments::kBlock : 0;
    int above = 0, beside = 0;  // pixels of the image that are not in the part that is decoded
    if (!resized && segments::Cut(bytes, data.size(), {top, left, rows, columns}, margin, &part_,
                                  &above, &beside)) {
      Read(part_.data(), part_.size());
    } else {
      Read(bytes, data.size());
    }
    const int tall = above + info_.image_height, wide = beside + info_.image_width;
    const int high = resized ? resized[0] : tall, broad = resized ? resized[1] : wide;
    if (top < 0 || left < 0 || rows < 1 || columns < 1 || broad < 1 || rows > high - top ||
        columns > broad - left) {
      return Refuse("the window lies outside the image");
    }
    // The window in pixels of the stored image; in a resized one, it begins between two of them.
    const float down = static_cast<float>(tall) / high, right = static_cast<float>(wide) / broad;
    const float first_y = top * down, first_x = left * right;
    const float extent_y = rows * down, extent_x = columns * right;
    if (resized) {  // it blends pixels beside it, too: any of the image
      top = left = 0;
      rows = tall;
      columns = wide;
    }
    const bool cmyk = info_.num_components == 4;
    info_.out_color_space = cmyk ? JCS_CMYK : JCS_EXT_RGBX;
    info_.dct_method = options.exact ? JDCT_ISLOW : JDCT_IFAST;
    info_.do_fancy_upsampling = options.exact ? TRUE : FALSE;
    int ratio = 1;
    if (options.scaled) {
      while (ratio < 8 && extent_y >= 2 * ratio * height && extent_x >= 2 * ratio * width) {
        ratio *= 2;
      }
    }
    info_.scale_num = 1;
    info_.scale_denom = ratio;
    jpeg_start_decompress(&info_);

    // The window in the decoded image, and the whole pixels that it touches.
    const float scale = 1.0f / ratio;
    const int top_row = top / ratio, left_column = left / ratio;
    const int last_row = (top + rows + ratio - 1) / ratio - 1;
    const int last_column = (left + columns + ratio - 1) / ratio - 1;
    const int first_column = beside / ratio;  // of the part
    JDIMENSION begin = left_column - first_column;
    JDIMENSION across = last_column - left_column + 1;
    if (across < info_.output_width) jpeg_crop_scanline(&info_, &begin, &across);
    blend::FillRows(height, first_y * scale, extent_y * scale, top_row, last_row, &down_);
    blend::FillColumns(width, first_x * scale, extent_x * scale, left_column, last_column,
                       window[4] != 0, &right_);

    // Only these columns are blended; libjpeg delivers whole blocks.
    const int needed = last_column - left_column + 1;
    const int before = (left_column - first_column - begin) * kLanes;
    for (auto& row : ring_) row.resize(across * kLanes + kVector + kLanes);
    blended_.resize((needed + blend::kRowSlack) * kLanes);
    line_.resize(width * kChannels + blend::kLineSlack);
    const blend::Steps& steps = options.plain ? blend::kPlain : kFast;
    if (top_row > above / ratio) jpeg_skip_scanlines(&info_, top_row - above / ratio);
    int read = top_row;  // rows before this one were read
    for (int y = 0; y < height; ++y) {
      const blend::Row& row = down_[y];
      const int second = row.weight ? row.at + 1 : row.at;
      while (read <= second) {
        // Where two rows share their colour, libjpeg is faster if it delivers both at once.
        uint8_t* targets[] = {Target(read), Target(read + 1)};
        const int got = jpeg_read_scanlines(&info_, targets, 2);
        if (got < 1) return Refuse("too few rows");
        for (int i = 0; cmyk && i < got; ++i) ToRgb(targets[i], across);
        read += got;
      }
      steps.rows(Target(row.at) + before, Target(second) + before, row.weight, needed * kLanes,
                 blended_.data());
      steps.columns(blended_.data(), right_.data(), width, line_.data());
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
    Read(reinterpret_cast<const uint8_t*>(data.data()), data.size());
    *height = info_.image_height;
    *width = info_.image_width;
    jpeg_abort_decompress(&info_);
    return true;
  }

  bool created() const { return created_; }

  const char* message() const { return failure_.message; }

 private:
  void Read(const uint8_t* data, size_t size) {
    jpeg_mem_src(&info_, data, size);
    jpeg_read_header(&info_, TRUE);
  }

  bool Refuse(const char* why) {
    std::snprintf(failure_.message, sizeof(failure_.message), "%s", why);
    jpeg_abort_decompress(&info_);
    return false;
  }

  // Where a row of the image is put: never on the boundary of a vector. There libjpeg-turbo
  // writes past the caches, and the blending waits for the memory: a fifth of an image's time.
  uint8_t* Target(int row) {
    uint8_t* begin = ring_[row % kRing].data();
    return begin + kVector - reinterpret_cast<uintptr_t>(begin) % kVector + kLanes;
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
  std::vector<blend::Row> down_;
  std::vector<blend::Column> right_;
  std::vector<uint8_t> part_, ring_[kRing], line_;
  std::vector<int16_t> blended_;
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
    OP_REQUIRES_OK(context, context->GetAttr("exact", &options_.exact));
    OP_REQUIRES_OK(context, context->GetAttr("scaled", &options_.scaled));
    OP_REQUIRES_OK(context, context->GetAttr("plain", &options_.plain));
  }

  void Compute(OpKernelContext* context) override {
    const auto encoded = context->input(0).flat<tstring>();
    const Tensor& windows = context->input(1);
    const int64_t count = encoded.size();
    OP_REQUIRES(context,
                windows.dims() == 2 && windows.dim_size(0) == count &&
                    (windows.dim_size(1) == kWindow || windows.dim_size(1) == kWindowOfResized),
                errors::InvalidArgument("windows must be [", count, ", ", kWindow, " or ",
                                        kWindowOfResized, "], received ",
                                        windows.shape().DebugString()));
    int height = 0, width = 0;
    OP_REQUIRES_OK(context, Side(context->input(2), "height", &height));
    OP_REQUIRES_OK(context, Side(context->input(3), "width", &width));
    Tensor* images = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(
                       0, TensorShape({count, height, width, kChannels}), &images));
    uint8_t* out = images->flat<uint8_t>().data();
    const size_t image = static_cast<size_t>(height) * width * kChannels;
    const int columns = windows.dim_size(1);
    const int32_t* window = windows.flat<int32_t>().data();
    Decoder decoder;
    OP_REQUIRES(context, decoder.created(), errors::FailedPrecondition(decoder.message()));
    for (int64_t i = 0; i < count; ++i, window += columns, out += image) {
      const bool resized = columns == kWindowOfResized && window[kWindow] > 0;
      OP_REQUIRES(context,
                  decoder.Decode(encoded(i), window, resized ? window + kWindow : nullptr, height,
                                 width, options_, out),
                  errors::InvalidArgument("JPEG ", i, " of the batch: ", decoder.message()));
    }
  }

 private:
  static absl::Status Side(const Tensor& given, const char* name, int* side) {
    if (given.dims() != 0 || given.scalar<int32_t>()() < 1) {
      return errors::InvalidArgument(name, " must be one number of pixels, from 1 on, received ",
                                     given.DebugString());
    }
    *side = given.scalar<int32_t>()();
    return absl::OkStatus();
  }

  Options options_;
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
    .Input("height: int32")
    .Input("width: int32")
    .Attr("exact: bool = false")
    .Attr("scaled: bool = true")
    .Attr("plain: bool = false")
    .Output("images: uint8")
    .SetShapeFn([](InferenceContext* c) {
      DimensionHandle height, width;
      TF_RETURN_IF_ERROR(c->MakeDimForScalarInput(2, &height));
      TF_RETURN_IF_ERROR(c->MakeDimForScalarInput(3, &width));
      c->set_output(0, c->MakeShape({c->Dim(c->input(0), 0), height, width, kChannels}));
      return absl::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("JpegSizes").Device(tensorflow::DEVICE_CPU), JpegSizesOp);
REGISTER_KERNEL_BUILDER(Name("DecodeWindows").Device(tensorflow::DEVICE_CPU), DecodeWindowsOp);

}  // namespace
