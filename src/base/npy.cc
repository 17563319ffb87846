#include "base/npy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "base/text.h"

namespace wideep {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kMaxHeaderBytes = 1 << 16;
constexpr int kMaxDimensions = 64;

struct Descr {
  std::string_view name;
  DType dtype;
};

// What numpy.dtype.str gives for the types that are read.
constexpr Descr kDescrs[] = {
    {"|b1", DType::kBool}, {"|u1", DType::kU8},  {"|i1", DType::kI8},  {"<u2", DType::kU16},
    {"<i2", DType::kI16},  {"<f2", DType::kF16}, {"<u4", DType::kU32}, {"<i4", DType::kI32},
    {"<f4", DType::kF32},  {"<u8", DType::kU64}, {"<i8", DType::kI64}, {"<f8", DType::kF64},
};

// The header: a Python dictionary of exactly three keys, {'descr': '<i4', 'fortran_order': False,
// 'shape': (3, 4)}. A failed step leaves problem() set and makes all later steps fail.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::vector<int64_t>& shape) : text_(text), shape_(shape) {}

  const std::string& problem() const { return problem_; }
  DType dtype() const { return dtype_; }

  bool parse() {
    if (!take('{')) return fail("must start with '{'");
    bool seen[3] = {};
    while (!take('}')) {
      const std::optional<std::string_view> key = string();
      if (!key.has_value() || !take(':')) return fail("must be a dictionary of strings to values");
      const int which = *key == "descr"           ? 0
                        : *key == "fortran_order" ? 1
                        : *key == "shape"         ? 2
                                                  : -1;
      if (which < 0) return fail(fmt::format("unknown key '{}'", *key));
      if (std::exchange(seen[which], true)) return fail(fmt::format("key '{}' twice", *key));
      if (!(which == 0 ? descr() : which == 1 ? order() : shape())) return false;
      if (!take(',') && peek() != '}') return fail("expected ',' or '}'");
    }
    if (!seen[0] || !seen[1] || !seen[2]) return fail("needs descr, fortran_order and shape");
    skip_space();
    return text_.empty() ? true : fail("has text behind '}'");
  }

 private:
  bool descr() {
    const std::optional<std::string_view> name = string();
    if (!name.has_value()) return fail("descr is not a plain type: records cannot be read");
    for (const Descr& descr : kDescrs) {
      // '<' and '|' say the same of one-byte types.
      if (descr.name.substr(1) != name->substr(std::min<size_t>(1, name->size()))) continue;
      if (name->front() == '>') return fail(fmt::format("'{}' is big-endian", *name));
      if (name->front() != descr.name.front() && name->front() != '<') break;
      dtype_ = descr.dtype;
      return true;
    }
    return fail(fmt::format("dtype '{}' cannot be read: need integers, floats or booleans", *name));
  }

  bool order() {
    skip_space();
    for (const std::string_view word : {"False", "True"}) {
      if (!text_.starts_with(word)) continue;
      text_.remove_prefix(word.size());
      if (word == "False") return true;
      return fail("Fortran order: save numpy.ascontiguousarray(array) instead");
    }
    return fail("fortran_order must be True or False");
  }

  bool shape() {
    if (!take('(')) return fail("shape must be a tuple");
    while (!take(')')) {
      skip_space();
      size_t digits = 0;
      while (digits < text_.size() && text_[digits] >= '0' && text_[digits] <= '9') ++digits;
      const std::optional<int64_t> size = parse_int(text_.substr(0, digits));
      if (!size.has_value()) return fail("shape must hold whole numbers below 2^63");
      if (shape_.size() == kMaxDimensions) return fail("shape has more than 64 dimensions");
      text_.remove_prefix(digits);
      take('L');  // Python 2 wrote long integers so
      shape_.push_back(*size);
      if (!take(',') && peek() != ')') return fail("shape must be a tuple of numbers");
    }
    return true;
  }

  std::optional<std::string_view> string() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') return std::nullopt;
    const size_t end = text_.find(quote, 1);
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view value = text_.substr(1, end - 1);
    text_.remove_prefix(end + 1);
    return value;
  }

  void skip_space() {
    const size_t at = text_.find_first_not_of(" \t\r\n");
    text_.remove_prefix(at == std::string_view::npos ? text_.size() : at);
  }
  char peek() {
    skip_space();
    return text_.empty() ? '\0' : text_.front();
  }
  bool take(char c) {
    if (peek() != c || text_.empty()) return false;
    text_.remove_prefix(1);
    return true;
  }
  bool fail(std::string problem) {
    if (problem_.empty()) problem_ = std::move(problem);
    return false;
  }

  std::string_view text_;
  std::vector<int64_t>& shape_;
  DType dtype_ = DType::kBool;
  std::string problem_;
};

struct Frame {
  std::string_view header;
  size_t data_at = 0;
};

// Magic, version, header length (2 bytes in version 1, 4 from version 2 on).
Result<Frame> read_frame(std::string_view text, const std::string& name) {
  if (!text.starts_with(kMagic) || text.size() < kMagic.size() + 2) {
    return Status::invalid_input(
        fmt::format("{}: not an npy file: it does not start with \\x93NUMPY", name));
  }
  const int version = static_cast<unsigned char>(text[kMagic.size()]);
  if (version < 1 || version > 3) {
    return Status::invalid_input(
        fmt::format("{}: npy version {}: versions 1 to 3 are read", name, version));
  }
  const size_t length_at = kMagic.size() + 2;
  const size_t length_bytes = version == 1 ? 2 : 4;
  uint32_t length = 0;
  if (text.size() < length_at + length_bytes) {
    return Status::invalid_input(fmt::format("{}: truncated in the npy header", name));
  }
  std::memcpy(&length, text.data() + length_at, length_bytes);
  const size_t header_at = length_at + length_bytes;
  if (length > kMaxHeaderBytes || length > text.size() - header_at) {
    return Status::invalid_input(
        fmt::format("{}: npy header length {} is beyond the {} bytes of the file or {}", name,
                    length, text.size(), kMaxHeaderBytes));
  }
  return Frame{text.substr(header_at, length), header_at + length};
}

}  // namespace

Result<Npy> Npy::open(const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  ASSIGN_OR_RETURN(Npy opened, parse(file.bytes(), path));
  opened.file_ = std::move(file);
  return opened;
}

Result<Npy> Npy::parse(std::span<const std::byte> bytes, const std::string& name) {
  ASSIGN_OR_RETURN(const Frame frame,
                   read_frame({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, name));
  Npy opened;
  HeaderParser parser(frame.header, opened.shape_);
  if (!parser.parse()) {
    return Status::invalid_input(fmt::format("{}: npy header: {}", name, parser.problem()));
  }
  opened.dtype_ = parser.dtype();
  opened.data_ = bytes.subspan(frame.data_at);
  const std::optional<int64_t> size = tensor_bytes(opened.dtype_, opened.shape_);
  if (size != static_cast<int64_t>(opened.data_.size())) {
    return Status::invalid_input(fmt::format(
        "{}: shape ({}) of {} needs {} bytes, the file holds {}", name,
        fmt::join(opened.shape_, ", "), dtype_name(opened.dtype_),
        size.has_value() ? fmt::to_string(*size) : "more than 2^63", opened.data_.size()));
  }
  return opened;
}

Status write_npy(const std::string& path, DType dtype, const std::vector<int64_t>& shape,
                 std::span<const std::byte> bytes) {
  const auto* descr = std::find_if(std::begin(kDescrs), std::end(kDescrs),
                                   [&](const Descr& d) { return d.dtype == dtype; });
  CHECK(descr != std::end(kDescrs));
  std::string header =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", descr->name,
                  fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  constexpr size_t kPrefix = 10;  // magic, version, length
  const size_t end = (kPrefix + header.size() + 1 + 63) / 64 * 64;
  header.resize(end - kPrefix - 1, ' ');
  header += '\n';
  const auto length = static_cast<uint16_t>(header.size());
  ASSIGN_OR_RETURN(FileWriter file, FileWriter::create(path));
  RETURN_IF_ERROR(file.append(kMagic));
  RETURN_IF_ERROR(file.append(std::string_view("\x01\x00", 2)));
  RETURN_IF_ERROR(file.append({reinterpret_cast<const char*>(&length), sizeof length}));
  RETURN_IF_ERROR(file.append(header));
  RETURN_IF_ERROR(file.append({reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
  return file.commit();
}

}  // namespace wideep
