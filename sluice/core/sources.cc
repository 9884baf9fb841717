#include "sluice/core/sources.h"

#include <algorithm>

#include "sluice/core/text_reader.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace sluice::detail {
namespace {

/// Collects lines into chunks.
class LineChunk {
 public:
  LineChunk(TaskContext& task, Pipe& out) : task_(task), out_(out) {}
  void add(const char* begin, const char* end) {
    if (end != begin && end[-1] == '\r') --end;
    lines_[size_] = std::string_view(begin, static_cast<std::size_t>(end - begin));
    if (++size_ == chunk_records<std::string_view>) flush();
  }
  void flush() {
    if (size_ == 0) return;
    task_.check_cancelled();
    out_.push(lines_, size_);
    size_ = 0;
  }
  bool full() const { return out_.full(); }

 private:
  TaskContext& task_;
  Pipe& out_;
  std::size_t size_ = 0;
  std::string_view lines_[chunk_records<std::string_view>];
};

}  // namespace

void push_lines(TaskContext& task, std::string_view text, Pipe& out) {
  LineChunk lines(task, out);
  const char* p = text.data();
  const char* const end = p + text.size();
  const char* line = p;
#if defined(__SSE2__)
  const __m128i newline = _mm_set1_epi8('\n');
  const auto mask_of = [newline](const char* at) {
    return static_cast<unsigned>(
        _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)), newline)));
  };
  for (; end - p >= 64; p += 64) {
    std::uint64_t found = mask_of(p) | static_cast<std::uint64_t>(mask_of(p + 16)) << 16 |
                          static_cast<std::uint64_t>(mask_of(p + 32)) << 32 |
                          static_cast<std::uint64_t>(mask_of(p + 48)) << 48;
    for (; found != 0; found &= found - 1) {
      const char* at = p + __builtin_ctzll(found);
      lines.add(line, at);
      line = at + 1;
    }
    if (lines.full()) return;
  }
#endif
  for (; p < end; ++p) {
    if (*p != '\n') continue;
    lines.add(line, p);
    line = p + 1;
  }
  if (line != end) lines.add(line, end);
  lines.flush();
}

RestedPtr lines_at_rest(std::string_view text) {
  auto lines = std::make_shared<RestedRecords>(type_ops<std::string_view>());
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines->append(&line, 1);
  }
  return lines;
}

void TextRangeSource::read(const OpenAt& at, Pipe& out) const {
  for (const TextRange& range : ranges_) {
    if (out.full()) return;
    read_text_range(at, range, options_, out);
  }
}

}  // namespace sluice::detail

namespace sluice {

void codec<detail::MemoryBlock>::encode(const detail::MemoryBlock& block, Encoder& out) { out.text(block.bytes); }

detail::MemoryBlock codec<detail::MemoryBlock>::decode(Decoder& in) {
  auto bytes = std::make_shared<const std::string>(in.text());
  return {bytes, *bytes};
}

void codec<detail::RestedPtr>::encode(const detail::RestedPtr& records, Encoder& out) {
  detail::encode_address(typeid(TypeOps), &records->type(), out);
  records->encode_to(out);
}

detail::RestedPtr codec<detail::RestedPtr>::decode(Decoder& in) {
  const auto* type = static_cast<const TypeOps*>(detail::decode_address(typeid(TypeOps), in));
  return detail::RestedRecords::decode_from(in, *type);
}

}  // namespace sluice
