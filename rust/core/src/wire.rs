//! The two bodies of the Tinker protocol that are large and come often, between bytes and columns: the request of a
//! training step, and its result. The schema is that of the tinker package (protobuf).
//!
//! Nearly all requests have one form: each datum one chunk of text, and dense inputs of one target a position. That
//! form is read here. Of anything else, and of anything that is wrong, [`read_request`] says [`Unusual`]: whoever has
//! the whole schema reads it again and finds out what it is.

/// A request in another form than the one that is read here, or none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusual;

type Read<T> = Result<T, Unusual>;

/// Whom a request is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Address<'a> {
    pub model_id: &'a str,
    pub seq_id: i32,
    pub forward_only: bool,
}

/// An option of a loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OptionValue<'a> {
    Number(f64),
    Text(&'a str),
}

/// The columns of a batch of B datums, T tokens in all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request<'a> {
    pub address: Address<'a>,
    pub loss: &'a str,
    /// By name; of two with one name the later one holds.
    pub options: Vec<(&'a str, OptionValue<'a>)>,
    /// [B + 1]
    pub offsets: Vec<i64>,
    /// [T]
    pub tokens: Vec<i32>,
    /// [T], each at least 0
    pub targets: Vec<i32>,
    /// [T] each, along [`FLOATS`], all finite; None for those that no datum has.
    pub floats: [Option<Vec<f32>>; 4],
}

/// Entries of options; no loss has so many.
const MAX_OPTIONS: usize = 64;

/// The inputs of a loss that are numbers of a token.
pub const FLOATS: [&str; 4] = ["weights", "logprobs", "advantages", "reference_logprobs"];

const TARGETS: &str = "target_tokens";
const FLOAT32: u64 = 1;
const INT64: u64 = 2;

enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Value<'a> {
    fn bytes(self) -> Read<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Unusual),
        }
    }

    fn text(self) -> Read<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Unusual)
    }

    fn varint(self) -> Read<u64> {
        match self {
            Self::Varint(number) => Ok(number),
            _ => Err(Unusual),
        }
    }

    fn double(self) -> Read<f64> {
        match self {
            Self::Fixed64(bytes) => Ok(f64::from_le_bytes(bytes)),
            _ => Err(Unusual),
        }
    }
}

/// The fields of one message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Unusual)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Read<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.0.first().ok_or(Unusual)?;
            self.0 = &self.0[1..];
            if shift == 63 && byte > 1 {
                return Err(Unusual);
            }
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Unusual)
    }

    /// A tag or a length: of five bytes at most, as protobuf takes them.
    fn short(&mut self) -> Read<u64> {
        let before = self.0.len();
        let number = self.varint()?;
        if before - self.0.len() > 5 {
            return Err(Unusual);
        }
        Ok(number)
    }

    /// (its number, what it holds), or None at the end.
    fn next(&mut self) -> Read<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.short()?;
        let number = tag >> 3;
        if number == 0 || tag > u64::from(u32::MAX) {
            return Err(Unusual);
        }
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.take(8)?.try_into().map_err(|_| Unusual)?),
            2 => {
                let length = usize::try_from(self.short()?).map_err(|_| Unusual)?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed32
            }
            _ => return Err(Unusual),
        };
        Ok(Some((number, value)))
    }
}

fn set<T>(place: &mut Option<T>, value: T) -> Read<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Unusual),
    }
}

/// The one field, of number 1, of a message that holds nothing else.
fn only_bytes(message: &[u8]) -> Read<&[u8]> {
    let mut fields = Fields(message);
    match (fields.next()?, fields.next()?) {
        (Some((1, value)), None) => value.bytes(),
        _ => Err(Unusual),
    }
}

/// An entry of a map.
fn entry<'a>(message: &'a [u8]) -> Read<(&'a str, Value<'a>)> {
    let (mut key, mut held) = (None, None);
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => set(&mut key, value.text()?)?,
            2 => set(&mut held, value)?,
            _ => return Err(Unusual),
        }
    }
    Ok((key.ok_or(Unusual)?, held.ok_or(Unusual)?))
}

fn option_value(message: &[u8]) -> Read<OptionValue<'_>> {
    let mut fields = Fields(message);
    match (fields.next()?, fields.next()?) {
        (Some((1, value)), None) => Ok(OptionValue::Number(value.double()?)),
        (Some((2, value)), None) => Ok(OptionValue::Text(value.text()?)),
        _ => Err(Unusual),
    }
}

/// The elements of a dense tensor of `count` of `dtype`, each of `N` bytes.
fn dense<const N: usize>(message: &[u8], dtype: u64, count: usize) -> Read<&[[u8; N]]> {
    let (mut values, mut kind, mut shape) = (None, None, None);
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(bytes)) => set(&mut values, bytes)?,
            (3, Value::Varint(number)) => set(&mut kind, number)?,
            (4, Value::Varint(length)) => set(&mut shape, length)?,
            (4, Value::Bytes(packed)) if !packed.is_empty() => {
                let mut packed = Fields(packed);
                set(&mut shape, packed.varint()?)?;
                if !packed.0.is_empty() {
                    return Err(Unusual);
                }
            }
            _ => return Err(Unusual),
        }
    }
    let (elements, rest) = values.ok_or(Unusual)?.as_chunks::<N>();
    let fits =
        elements.len() == count && rest.is_empty() && shape.is_none_or(|n| n == count as u64);
    if fits && kind == Some(dtype) {
        Ok(elements)
    } else {
        Err(Unusual)
    }
}

impl<'a> Request<'a> {
    fn datum(&mut self, message: &'a [u8]) -> Read<()> {
        let (mut chunk, mut targets, mut floats) = (None, None, [None; 4]);
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => set(&mut chunk, value.bytes()?)?,
                2 => {
                    let (name, tensor) = entry(value.bytes()?)?;
                    let tensor = tensor.bytes()?;
                    if name == TARGETS {
                        set(&mut targets, tensor)?;
                    } else {
                        let at = FLOATS.iter().position(|&f| f == name).ok_or(Unusual)?;
                        set(&mut floats[at], tensor)?;
                    }
                }
                _ => return Err(Unusual),
            }
        }
        let text = only_bytes(only_bytes(chunk.ok_or(Unusual)?)?)?;
        let (tokens, rest) = text.as_chunks::<4>();
        if tokens.is_empty() || !rest.is_empty() {
            return Err(Unusual);
        }
        let first = self.tokens.is_empty();
        self.tokens
            .extend(tokens.iter().map(|&t| i32::from_le_bytes(t)));
        for &target in dense::<8>(targets.ok_or(Unusual)?, INT64, tokens.len())? {
            let id = i32::try_from(i64::from_le_bytes(target)).map_err(|_| Unusual)?;
            if id < 0 {
                return Err(Unusual);
            }
            self.targets.push(id);
        }
        for (column, tensor) in self.floats.iter_mut().zip(floats) {
            let Some(tensor) = tensor else {
                if column.is_some() {
                    return Err(Unusual);
                }
                continue;
            };
            if first {
                *column = Some(Vec::new());
            }
            let column = column.as_mut().ok_or(Unusual)?;
            for &bytes in dense::<4>(tensor, FLOAT32, tokens.len())? {
                let number = f32::from_le_bytes(bytes);
                if !number.is_finite() {
                    return Err(Unusual);
                }
                column.push(number);
            }
        }
        self.offsets.push(self.tokens.len() as i64);
        Ok(())
    }
}

/// Reads the head of a request alone, whatever its datums are.
pub fn read_address(body: &[u8]) -> Read<Address<'_>> {
    let mut address = Address::default();
    let mut fields = Fields(body);
    while let Some((number, value)) = fields.next()? {
        read_head(&mut address, number, value)?;
    }
    Ok(address)
}

/// Takes the field if it belongs to the head, else gives it back.
fn read_head<'a>(
    address: &mut Address<'a>,
    number: u64,
    value: Value<'a>,
) -> Read<Option<Value<'a>>> {
    match number {
        1 => address.model_id = value.text()?,
        2 => address.seq_id = i32::try_from(value.varint()?).map_err(|_| Unusual)?,
        6 => address.forward_only = value.varint()? != 0,
        _ => return Ok(Some(value)),
    }
    Ok(None)
}

pub fn read_request(body: &[u8]) -> Read<Request<'_>> {
    let mut request = Request {
        offsets: vec![0],
        ..Request::default()
    };
    let (mut numbers, mut values) = (Vec::new(), Vec::new());
    let mut fields = Fields(body);
    while let Some((number, value)) = fields.next()? {
        let Some(value) = read_head(&mut request.address, number, value)? else {
            continue;
        };
        match number {
            3 => request.datum(value.bytes()?)?,
            4 => request.loss = value.text()?,
            5 => {
                let (name, value) = entry(value.bytes()?)?;
                numbers.push((name, OptionValue::Number(value.double()?)));
            }
            7 => {
                let (name, value) = entry(value.bytes()?)?;
                values.push((name, option_value(value.bytes()?)?));
            }
            _ => return Err(Unusual),
        }
        if numbers.len() + values.len() > MAX_OPTIONS {
            return Err(Unusual);
        }
    }
    if request.tokens.is_empty() {
        return Err(Unusual);
    }
    numbers.append(&mut values); // a client that sends both means the same by both
    request.options = numbers;
    Ok(request)
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The result of a training step on B datums: `logprobs` of the T targets in order, `offsets` [B + 1] of datums in
/// them, and metrics by name.
pub fn write_result(logprobs: &[f32], offsets: &[i64], metrics: &[(String, f64)]) -> Vec<u8> {
    let data: Vec<u8> = logprobs.iter().flat_map(|p| p.to_le_bytes()).collect();
    let ends: Vec<u8> = offsets.iter().flat_map(|o| (4 * o).to_le_bytes()).collect();
    let mut tensor = Vec::with_capacity(data.len() + ends.len() + 16);
    put_bytes(&mut tensor, 1, &data);
    put_bytes(&mut tensor, 2, &ends);
    put_varint(&mut tensor, 3 << 3);
    put_varint(&mut tensor, FLOAT32);
    let mut field = Vec::with_capacity(tensor.len() + 16);
    put_bytes(&mut field, 1, b"logprobs");
    put_bytes(&mut field, 2, &tensor);
    let mut record = Vec::with_capacity(field.len() + 32);
    put_bytes(&mut record, 1, b"ArrayRecord");
    put_bytes(&mut record, 2, &field);
    put_varint(&mut record, 3 << 3);
    put_varint(&mut record, offsets.len().saturating_sub(1) as u64);
    let mut out = Vec::with_capacity(record.len() + 64 * (metrics.len() + 1));
    put_bytes(&mut out, 1, b"ArrayRecord");
    put_bytes(&mut out, 2, &record);
    for (name, value) in metrics {
        let mut pair = Vec::with_capacity(name.len() + 16);
        put_bytes(&mut pair, 1, name.as_bytes());
        put_varint(&mut pair, 2 << 3 | 1);
        pair.extend_from_slice(&value.to_le_bytes());
        put_bytes(&mut out, 3, &pair);
    }
    out
}
