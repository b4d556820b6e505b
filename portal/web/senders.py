from flask import Blueprint

blueprint = Blueprint("senders", __name__)
